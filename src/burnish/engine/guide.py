"""Structured output: which tokens an answer may go on with so that it can still become what was asked for.

The library llguidance turns a JSON schema, a regular expression or a grammar into a matcher; here it is compiled in a
thread, off the engine's loop, and asked for the tokens of a whole batch at once, drafts included.

R rows (one for each token that is chosen), V vocabulary.
"""

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadRequest
from burnish.core.types import JSON_BLANKS, Grammar

if TYPE_CHECKING:
    import llguidance

Allowed = NDArray[np.bool_]
KEPT = 64  # compiled grammars
COMPILING = 2  # grammars at a time
LIMIT_S = 10.0  # of compiling; the library's own limits end what takes longer soon after
SILENT = 0  # the library's log level
_LINE = re.compile(r"\s*\n\s*")


class Spelling(Protocol):
    """A vocabulary as text, both ways."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a generation."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are not text."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """Beginning-of-sequence token, if there is one."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


class Guide:
    """The grammar of one sequence, and how far its answer has come."""

    def __init__(self, matcher: "llguidance.LLMatcher") -> None:
        self.matcher = matcher

    def take(self, token_id: int) -> bool:
        """The answer goes on with a token; whether that was allowed."""
        return self.matcher.consume_token(token_id)

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self.matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why no token can be told any more; empty while all is well."""
        return _one_line(self.matcher.get_error())


class Asked(NamedTuple):
    """A sequence's guide and the drafts behind its last token."""

    guide: Guide
    draft: tuple[int, ...]


class Guides:
    """Compiles grammars for a vocabulary; those that were asked for last are kept."""

    def __init__(self, spelling: Spelling, vocab_size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._spelling, self._vocab_size, self._clock = spelling, vocab_size, clock
        self._threads = ThreadPoolExecutor(COMPILING, thread_name_prefix="grammar")
        self._lock = Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._executor: llguidance.LLExecutor | None = None
        self._known: OrderedDict[Grammar, llguidance.LLMatcher] = OrderedDict()

    def begin(self, grammar: Grammar) -> "Compiling":
        """Compile in a thread."""
        begun = list[float]()

        def compiled() -> Guide:
            begun.append(self._clock())
            return self.compile(grammar)

        return Compiling(self._threads.submit(compiled), begun, self._clock)

    def compile(self, grammar: Grammar) -> Guide:
        """A guide at the beginning of an answer. Raises ``BadRequest`` for a grammar that cannot be."""
        with self._lock:
            known = self._known.get(grammar)
            if known is not None:
                self._known.move_to_end(grammar)
                return Guide(known.deep_copy())
        try:
            with self._lock:
                tokenizer = self._ready()
            matcher = _compiled(grammar, tokenizer)
        except BadRequest:
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise _refused(grammar, str(error)) from None
        with self._lock:
            self._known[grammar] = matcher
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return Guide(matcher.deep_copy())

    def allowed(self, asked: Sequence[Asked]) -> list[Allowed]:
        """Of every sequence, for its next token and behind each of its drafts: the tokens (V,) that may come.

        Behind a draft that may not come itself all may: it is never kept.
        """
        import llguidance

        with self._lock:
            self._ready()
        self._executor = self._executor or llguidance.LLExecutor(1)
        rows = sum(1 + len(draft) for _, draft in asked)
        bits = np.full((rows, -(-self._vocab_size // 32)), -1, np.int32)
        first, plain, drafted = 0, [], []
        for guide, draft in asked:
            if draft:
                drafted.append((guide.matcher, first, list(draft)))
            else:
                plain.append((guide.matcher, first))
            first += 1 + len(draft)
        place = bits.ctypes.data, 4 * bits.shape[1], rows
        if plain:
            self._executor.unsafe_compute_mask_ptr(plain, *place)
        if drafted:
            self._executor.unsafe_compute_mask_ptr_with_draft_token(drafted, *place)
        spread = np.unpackbits(bits.view(np.uint8), axis=1, count=self._vocab_size, bitorder="little")
        if not self._spelling.eos_token_ids:
            spread[:, -1] = 0  # stands for the end where no token does, and is no part of an answer
        return list(spread.view(np.bool_))

    def _ready(self) -> "llguidance.LLTokenizer":
        """The library's own form of the vocabulary, made once."""
        if self._tokenizer is None:
            import llguidance

            words = llguidance.TokenizerWrapper(_Words(self._spelling, self._vocab_size))
            self._tokenizer = llguidance.LLTokenizer(words, eos_token=sorted(self._spelling.eos_token_ids) or None)
        return self._tokenizer


class Compiling:
    """A grammar that is being compiled."""

    def __init__(self, future: "Future[Guide]", begun_s: Sequence[float], clock: Callable[[], float]) -> None:
        """``begun_s``: when it was, one figure; none while it waits for others."""
        self.future, self._begun_s, self._clock = future, begun_s, clock

    @property
    def is_over(self) -> bool:
        """Whether it is compiled, refused, or took too long."""
        return self.future.done() or (bool(self._begun_s) and self._clock() > self._begun_s[0] + LIMIT_S)

    def guide(self) -> Guide:
        """What came of it. Raises ``BadRequest``."""
        if not self.future.done():
            self.future.cancel()
            raise BadRequest(f"the grammar took longer than {LIMIT_S:.0f} s", remedy="Simplify it")
        return self.future.result()


class _Words:
    """A vocabulary as the library asks for it."""

    def __init__(self, spelling: Spelling, vocab_size: int) -> None:
        self._spelling = spelling
        self.tokens = [spelling.piece(token) for token in range(vocab_size)]
        self.special_token_ids = sorted(spelling.special_ids)
        self.bos_token_id = spelling.bos_token_id
        self.eos_token_id = min(spelling.eos_token_ids, default=vocab_size - 1)

    def __call__(self, text: str | bytes) -> list[int]:
        plain = text if isinstance(text, str) else text.decode(errors="replace")
        return self._spelling.encode(plain, add_special_tokens=False)


def _compiled(grammar: Grammar, tokenizer: "llguidance.LLTokenizer") -> "llguidance.LLMatcher":
    import llguidance

    matchers = llguidance.LLMatcher
    try:
        if grammar.kind == "json_schema":
            written = matchers.grammar_from_json_schema(grammar.text, {"whitespace_pattern": JSON_BLANKS})
        elif grammar.kind == "regex":
            written = matchers.grammar_from_regex(grammar.text)
        elif grammar.kind == "choice":
            options = " | ".join(json.dumps(option, ensure_ascii=False) for option in json.loads(grammar.text))
            written = matchers.grammar_from_lark(f"start: {options}")
        else:
            written = matchers.grammar_from_lark(grammar.text)
    except ValueError as error:
        raise _refused(grammar, str(error)) from None
    limits = llguidance.LLParserLimits(verbose_errors=False)
    matcher = matchers(tokenizer, written, log_level=SILENT, limits=limits)
    if matcher.is_error():
        raise _refused(grammar, matcher.get_error())
    return matcher


def _refused(grammar: Grammar, reason: str) -> BadRequest:
    told = _one_line(reason)[:300].rstrip(".")
    return BadRequest(
        f"the {grammar.kind.replace('_', ' ')} cannot be used: {told}",
        remedy="Correct it",
        code="bad_grammar",
    )


def _one_line(text: str) -> str:
    return _LINE.sub(" ", text.replace("<non-verbose/>", "").strip())
