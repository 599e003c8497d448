"""The pool of KV blocks: who holds which, by reference counts.

A block is in exactly one of three states, and free + cached + used == total after every call:
  free    nobody holds it, its content means nothing
  cached  nobody holds it, but it still holds a reusable prefix; taken back last-released-last
  used    held by one or more sequences
"""

from collections import OrderedDict, deque
from collections.abc import Callable


class BlockPool:
    """Hands out block numbers 0 .. num_blocks - 1. The caller of ``allocate`` or ``share`` owns one reference."""

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None]) -> None:
        self._references = [0] * num_blocks
        self._free = deque(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._on_evict = on_evict

    @property
    def num_total(self) -> int:
        """Blocks in the pool."""
        return len(self._references)

    @property
    def num_free(self) -> int:
        """Blocks without content."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks held by nobody that keep a prefix."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks ``allocate`` can hand out."""
        return self.num_free + self.num_cached

    @property
    def num_used(self) -> int:
        """Blocks somebody holds."""
        return self.num_total - self.num_available

    def references(self, block: int) -> int:
        """How many hold the block."""
        return self._references[block]

    def allocate(self) -> int:
        """A block for writing, evicting the longest unused prefix if need be. The pool must not be exhausted."""
        assert self.num_available, "the scheduler asks only for what is available"
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
            self._on_evict(block)
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Take one more reference to a block that holds a prefix."""
        assert self._references[block] or block in self._cached, "only blocks with content can be shared"
        self._cached.pop(block, None)
        self._references[block] += 1

    def release(self, block: int, *, keep: bool) -> None:
        """Give back one reference; the last one makes the block cached if it is worth keeping, else free."""
        assert self._references[block] > 0, f"block {block} is freed twice"
        self._references[block] -= 1
        if self._references[block]:
            return
        if keep:
            self._cached[block] = None
        else:
            self._free.append(block)
