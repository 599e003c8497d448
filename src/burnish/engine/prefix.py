"""Which blocks hold which prefix: a hash chain over full blocks.

The key of a block hashes its tokens and the key of the block before it; a chain starts from the request's salt, so
tenants with different salts never share. A hit needs more than an equal key: the exact tokens, and the very entry
of the block before. So even a hash collision cannot hand a sequence somebody else's keys.
"""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

HashKey = Callable[[bytes, Sequence[int]], bytes]
NO_BLOCK = -1


class Entry:
    """A block and the prefix it holds: ``tokens`` after everything ``parent`` holds. Compared by identity."""

    __slots__ = ("__weakref__", "block", "is_drafted", "key", "parent", "tokens")

    def __init__(self, key: bytes, parent: "Entry | None", tokens: tuple[int, ...], block: int) -> None:
        self.key, self.parent, self.tokens, self.block = key, parent, tokens, block
        self.is_drafted = False  # whether the block holds the keys of the draft model, too


def sha256_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a block from the key before it and its tokens."""
    return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()


class PrefixCache:
    """Remembers full, computed blocks. It owns no references: the pool tells it when a block is evicted.

    A sequence carries its chain: the root of its salt, then one entry per block it found or remembered.
    """

    def __init__(self, block_size: int, key: HashKey = sha256_key) -> None:
        self._size, self._key = block_size, key
        self._roots: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        self._entries: dict[bytes, Entry] = {}
        self._by_block: dict[int, Entry] = {}

    def find(self, tokens: Sequence[int], salt: str) -> list[Entry]:
        """The chain of the longest cached prefix, leaving at least the last token to compute."""
        chain = [self._root(salt)]
        for index in range((len(tokens) - 1) // self._size):
            entry = self._match(chain[-1], self._tokens(tokens, index))
            if entry is None:
                break
            chain.append(entry)
        return chain

    def remember(self, chain: list[Entry], tokens: Sequence[int], block: int) -> None:
        """Extend a chain by the next full block of ``tokens``, held by ``block`` unless another block holds it too."""
        parent, taken = chain[-1], self._tokens(tokens, len(chain) - 1)
        entry = self._match(parent, taken)
        if entry is None:
            entry = Entry(self._key(parent.key, taken), parent, taken, block)
            self._entries[entry.key] = self._by_block[block] = entry
        chain.append(entry)

    def holds(self, block: int) -> bool:
        """Whether the block is worth keeping when nobody uses it."""
        return block in self._by_block

    def forget(self, block: int) -> None:
        """The block is about to be overwritten."""
        entry = self._by_block.pop(block)
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]

    def _root(self, salt: str) -> Entry:
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Entry(hashlib.sha256(salt.encode()).digest(), None, (), NO_BLOCK)
        return root

    def _match(self, parent: Entry, tokens: tuple[int, ...]) -> Entry | None:
        entry = self._entries.get(self._key(parent.key, tokens))
        return entry if entry is not None and entry.parent is parent and entry.tokens == tokens else None

    def _tokens(self, tokens: Sequence[int], index: int) -> tuple[int, ...]:
        return tuple(tokens[index * self._size : (index + 1) * self._size])
