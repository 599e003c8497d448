"""Prompts: as long as asked for, the same where prefixes are shared, and nowhere else."""

import pytest

from burnish.measure.load.prompts import PromptWriter
from burnish.measure.load.traffic import Arrival


def arrival(prompt_tokens: int, *prefix_ids: int, block_tokens: int = 512) -> Arrival:
    return Arrival(
        at_s=0, prompt_tokens=prompt_tokens, output_tokens=1, prefix_ids=prefix_ids, block_tokens=block_tokens
    )


@pytest.mark.parametrize("tokens", [1, 2, 9, 100, 3000, 40_000])
@pytest.mark.parametrize(("per_word", "overhead"), [(1.0, 0.0), (1.5, 4.0), (2.0, 11.0)])
def test_prompts_have_their_length(tokens: int, per_word: float, overhead: float) -> None:
    """To half a word; at least one word is sent."""
    num_words = len(PromptWriter(per_word, overhead).write(arrival(tokens), 3, seed=0).split())
    expected = max(tokens, overhead + per_word)
    assert overhead + per_word * num_words == pytest.approx(expected, abs=per_word / 2)


def test_the_same_ids_give_the_same_blocks() -> None:
    """Two conversations that share two blocks of 512 tokens, and a third that shares none."""
    writer = PromptWriter(tokens_per_word=1.0)
    one, two = (
        writer.write(arrival(1500, 5, 6, 7), 0, seed=0).split(),
        writer.write(arrival(1400, 5, 6, 9), 1, seed=0).split(),
    )
    other = writer.write(arrival(1500, 8, 6, 7), 2, seed=0).split()
    assert one[:1024] == two[:1024]
    assert one[1024:1040] != two[1024:1040]
    assert one[:16] != other[:16]
    assert one[512:1024] == other[512:1024], "the block of an id is the same wherever it stands"
    assert writer.write(arrival(900, 5, 6), 3, seed=0).split() == one[:900], "a block may be cut at the end of a prompt"


def test_blocks_follow_the_length_of_words_and_the_shrinking() -> None:
    one, two = (PromptWriter(2.0).write(arrival(64, 1, i, block_tokens=32), i, seed=0).split() for i in (2, 3))
    assert len(one) == len(two) == 32
    assert one[:16] == two[:16]
    assert one[16:24] != two[16:24]


def test_a_growing_conversation_begins_as_before() -> None:
    """Requests whose last block is cut and later whole begin alike to the last word."""
    writer = PromptWriter(1.25, 3.0)
    short, long = writer.write(arrival(700, 1, 2), 0, seed=0), writer.write(arrival(1300, 1, 2, 3), 1, seed=0)
    assert long.startswith(short)


def test_prompts_without_ids_begin_differently() -> None:
    writer = PromptWriter()
    beginnings = {tuple(writer.write(arrival(100), number, seed=0).split()[:8]) for number in range(5000)}
    assert len(beginnings) == 5000


def test_a_seed_reproduces_the_prompts() -> None:
    for asked in (arrival(300), arrival(600, 1, 2)):
        assert PromptWriter().write(asked, 1, seed=4) == PromptWriter().write(asked, 1, seed=4)
        assert PromptWriter().write(asked, 1, seed=4) != PromptWriter().write(asked, 1, seed=5)
