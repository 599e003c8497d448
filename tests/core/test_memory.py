"""What this process holds, as Linux tells it."""

import torch

from burnish.core.memory import give_back, own_bytes


def test_what_was_freed_between_pieces_in_use_is_given_back() -> None:
    pieces = [torch.ones(2**14) for _ in range(2000)]  # 64 KiB each, out of the heap
    pins = pieces[::100]
    del pieces
    before = own_bytes()
    give_back()
    assert own_bytes() < before - 100 * 2**20
    assert all(bool((pin == 1).all()) for pin in pins)
