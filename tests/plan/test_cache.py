"""Plans on disk: what is read is what was written, whatever else happens to the folder."""

import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish.core.errors import BadSettings
from burnish.kernels.tiles import Tiles
from burnish.plan.cache import CacheConfig, PlanCache
from burnish.plan.ops import LOGITS, Embed, Gather, Keys, Linear, Norm, Operation, Plan, PlanShape
from burnish.plan.tile_file import Lowered, _large_pages, read_plan, write_plan

SHAPE = PlanShape(vocab_size=16, max_positions=8, num_layers=1, num_kv_heads=1, head_dim=4)


def tiles(fill: int, size: int = 1024) -> Tiles:
    return Tiles(kind="f32", outputs=16, inputs=size // 64, data=np.full(size, fill, dtype=np.uint8))


def operations(size: int = 1024) -> Iterator[Operation]:
    """A list in which a table and an array are shared."""
    table, cos = tiles(1, size), np.linspace(0, 1, 16, dtype=np.float32).reshape(8, 2)
    yield Embed(table=table, positions=None, scale=2.0, out=0)
    for layer in range(2):
        yield Keys(
            layer=layer,
            num_heads=1,
            num_kv_heads=1,
            head_dim=4,
            q_norm=None,
            k_norm=None,
            eps=1e-5,
            cos=cos,
            sin=cos,
            source=0,
        )
        own = tiles(10 + layer, size)
        yield Linear(weight=own, bias=cos[0], activations="f32", source=0, out=0, column=0, add=True)
    yield Norm(kind="rms", weight=cos[:, 0].copy(), bias=None, eps=1e-6, source=0, out=0, add=False, quantized=False)
    yield Gather(source=0, out=0)
    yield Linear(weight=table, bias=None, activations="f32", source=0, out=LOGITS, column=0, add=False)


def lowered(size: int = 1024) -> Lowered:
    return Lowered(SHAPE, (16, 32), "dense", operations(size))


def refuse() -> Lowered:
    raise AssertionError("the plan is there: nothing may be lowered")


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(CacheConfig(folder=tmp_path / "plans"))


def check(plan: Plan) -> None:
    embed, _, first, _, second, _, gather, head = plan.operations
    assert (plan.shape, plan.buffers, plan.weights) == (SHAPE, (16, 32), "dense")
    assert isinstance(embed, Embed)
    assert embed.scale == 2.0
    assert isinstance(head, Linear)
    assert head.weight is embed.table, "a shared table is stored once"
    assert head.out == LOGITS
    assert isinstance(first, Linear)
    assert isinstance(second, Linear)
    assert isinstance(gather, Gather)
    assert (first.weight.data == 10).all()
    assert (second.weight.data == 11).all()
    assert first.weight.data.ctypes.data % 64 == 0
    assert np.array_equal(first.bias if first.bias is not None else [], np.linspace(0, 1, 16, dtype=np.float32)[:2])


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "one.plan"
    write_plan(lowered(), path, "key")
    check(read_plan(path, "key"))
    assert path.stat().st_size < 3 * 1024 + 4096, "three tables, not four"


def test_the_second_start_lowers_nothing(cache: PlanCache) -> None:
    check(cache.open("a", lowered))
    check(cache.open("a", refuse))
    assert [one.key for one in cache.list()] == ["a"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "flipped", "other key"])
def test_a_damaged_file_is_made_again(cache: PlanCache, damage: str) -> None:
    cache.open("a", lowered)
    path = cache.folder / "a.plan"
    whole = path.read_bytes()
    middle = whole.rfind(b"weights")
    broken = {
        "truncated": whole[:-10],
        "empty": b"",
        "foreign": b"GGUF" + whole[4:],
        "flipped": whole[:middle] + b"X" + whole[middle + 1 :],
        "other key": whole,
    }[damage]
    name = "b" if damage == "other key" else "a"
    (cache.folder / f"{name}.plan").write_bytes(broken)
    check(cache.open(name, lowered))
    check(cache.open(name, refuse))


def test_a_plan_outlives_its_file(cache: PlanCache) -> None:
    plan = cache.open("a", lowered)
    assert cache.clear() > 0
    assert cache.list() == []
    check(plan)


def test_the_least_recently_used_are_deleted_beyond_the_limit(tmp_path: Path) -> None:
    one_bytes = PlanCache(CacheConfig(folder=tmp_path / "measure")).open("m", lambda: lowered(2**16))
    size = len(one_bytes.owner)
    cache = PlanCache(CacheConfig(folder=tmp_path / "plans", max_bytes=int(size * 2.5)))
    for age, key in enumerate("abc"):
        cache.open(key, lambda: lowered(2**16))
        os.utime(cache.folder / f"{key}.plan", (1000 + age, 1000 + age))
    assert {one.key for one in cache.list()} == {"b", "c"}
    cache.open("b", refuse)  # used: now c is the oldest
    cache.open("d", lambda: lowered(2**16))
    assert {one.key for one in cache.list()} == {"b", "d"}


def test_a_failed_lowering_leaves_nothing(cache: PlanCache) -> None:
    def fails() -> Lowered:
        def half() -> Iterator[Operation]:
            yield Gather(source=0, out=0)
            raise KeyError("half-way")

        return Lowered(SHAPE, (16,), "dense", half())

    with pytest.raises(KeyError):
        cache.open("a", fails)
    assert not list(cache.folder.iterdir())
    check(cache.open("a", lowered))


def _start(folder: Path, barrier: object, made: object) -> None:
    def slow() -> Lowered:
        made.put(os.getpid())  # type: ignore[attr-defined]
        return lowered(2**20)

    barrier.wait()  # type: ignore[attr-defined]
    check(PlanCache(CacheConfig(folder=folder)).open("a", slow))


def test_concurrent_starters_lower_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, made = context.Barrier(4), context.Queue()
    starters = [context.Process(target=_start, args=(tmp_path, barrier, made)) for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(60)
    assert [starter.exitcode for starter in starters] == [0] * 4
    made.get(timeout=10)
    assert made.empty()


def test_keys_are_remembered_by_stamp(cache: PlanCache) -> None:
    asked: list[str] = []

    def key() -> str:
        asked.append("key")
        return "key"

    check(cache.open_stamped("stamp", key, lowered))
    check(cache.open_stamped("stamp", key, refuse))
    assert asked == ["key"]
    check(cache.open_stamped("other", key, refuse))
    assert asked == ["key", "key"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_nobody_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadSettings, match="cannot be written"):
        PlanCache(CacheConfig(folder=tmp_path / "plans")).open("a", lowered)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("")
    with pytest.raises(BadSettings, match="cannot be written"):
        PlanCache(CacheConfig(folder=tmp_path / "plans")).open("a", lowered)


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(BadSettings, match="max_bytes"):
        CacheConfig(max_bytes=-1)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no large pages")
def test_weights_lie_in_memory_that_may_have_large_pages(tmp_path: Path) -> None:
    """Shared memory would not: the kernel ignores the advice there."""
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 40_000)
    with path.open("rb") as file:
        memory = _large_pages(file, path.stat().st_size)
    assert memory[:] == path.read_bytes()
    address = np.frombuffer(memory, np.uint8).ctypes.data
    head, flags = _mapping(address)
    assert head.split()[1] == "rw-p"
    assert "hg" in flags.split()


def _mapping(address: int) -> tuple[str, str]:
    """First and last line of what the kernel says of the memory at an address."""
    head = ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            head = line
        elif line.startswith("VmFlags"):
            begin, end = (int(border, 16) for border in head.split()[0].split("-"))
            if begin <= address < end:
                return head, line
    raise AssertionError("no such memory")
