"""Text to tokens and back: tokenizer.json by the ``tokenizers`` library, what is in a GGUF file, llama2.c's tok*.bin.
Loads no torch.

A token is bytes: text is the UTF-8 reading of the concatenated bytes of its tokens. So a stream of tokens becomes
text in constant time per token, and half a character is simply bytes that wait.
"""

import codecs
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from burnish.core.errors import BadCheckpoint, BadRequest, NotFound
from burnish.core.tools import ToolStyle
from burnish.core.types import Message
from burnish.models import llama2c, tok_bin
from burnish.models.chat_template import ChatTemplate
from burnish.models.gguf import location as gguf_location
from burnish.models.raw_config import read_json

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"
FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    TEMPLATE,
    GENERATION,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A vocabulary with its rules; wears ``TextCodec``."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
        template: ChatTemplate | None = None,
    ) -> None:
        """Raises ``BadCheckpoint`` when the backend's decoder does not see tokens as bytes."""
        backend.no_truncation()  # a file may ask for both, for training
        backend.no_padding()
        self.backend, self.template = backend, template
        self.bos_token_id, self.eos_token_ids = bos_token_id, eos_token_ids
        spec = json.loads(backend.to_str())
        to_bytes, self.strips_first_space = _reading(spec.get("decoder"))
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._pieces = {token_id: to_bytes(token) for token, token_id in vocabulary.items()}
        self.special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._pieces, default=-1) + 1

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids; begin and end tokens as the tokenizer's post-processor adds them.

        Raises ``BadRequest`` for text that is no Unicode (lone surrogates).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"text is not Unicode: {error.reason} at {error.start}", remedy="Mend the text") from None
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text: for BERT [CLS] and [SEP]."""
        whole, bare = self.encode("a"), self.encode("a", add_special_tokens=False)
        before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:before], whole[before + len(bare) :]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        stream = TextStream(self, skip_special_tokens=skip_special_tokens)
        return "".join(map(stream.push, token_ids)) + stream.finish()

    @property
    def tool_style(self) -> ToolStyle | None:
        """How the model writes calls of functions; None where its chat template knows of none."""
        return None if self.template is None else self.template.tool_style

    def chat(
        self, messages: Sequence[Message], *, to_answer: bool = True, tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer if ``to_answer``. Raises ``BadRequest``."""
        if self.template is None:
            reason, remedy = "this model has no chat template", "Use /v1/completions"
            raise BadRequest(reason, remedy=remedy, param="messages", code="no_chat_template")
        return self.encode(self.template.render(messages, to_answer=to_answer, tools=tools), add_special_tokens=False)

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token; nothing for an id outside the vocabulary."""
        return self._pieces.get(token_id, b"")


class Pieces(Protocol):
    """A vocabulary as a stream of text needs it."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are not text."""
        ...

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first space belongs to the encoding, not to the text."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token."""
        ...


class TextStream:
    """Text of tokens as they come: the pushes and the finish together are the decoded whole, minus the prompt.

    A push returns what is certain: bytes that may be half a character wait for the next token.
    """

    def __init__(self, tokenizer: Pieces, prompt_tail: Sequence[int] = (), *, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skipped = tokenizer, tokenizer.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = tokenizer.strips_first_space
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token."""
        if token_id in self._skipped:
            return ""
        text = self._utf8.decode(self._tokenizer.piece(token_id))
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What still waited: U+FFFD for a character that never became whole."""
        return self._utf8.decode(b"", final=True)


def _reading(decoder: object) -> tuple[Callable[[str], bytes], bool]:
    """How a decoder reads a token as bytes, and whether it drops the first space of a text."""
    outer: dict[str, Any] = decoder if isinstance(decoder, dict) else {}
    steps: list[dict[str, Any]] = outer["decoders"] if outer.get("type") == "Sequence" else [outer]
    kinds = [step.get("type") for step in steps]
    if "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
        return _from_alphabet, False
    if set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        strips = [s for s in steps if s["type"] == "Strip" or s.get("prepend_scheme") in ("always", "first")]
        return _from_pieces, bool(strips)
    if kinds == ["WordPiece"]:
        return partial(_from_word_piece, prefix=str(outer.get("prefix", "##"))), True
    raise BadCheckpoint(
        f"tokenizer.json: decoder {'+'.join(map(str, kinds))} is not supported",
        remedy="Known: ByteLevel, Metaspace or Replace with ByteFallback (SentencePiece), WordPiece",
    )


def _alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: character -> byte (openai/gpt-2, encoder.py, ``bytes_to_unicode``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _alphabet()


def _from_alphabet(token: str) -> bytes:
    known = [_BYTES.get(character) for character in token]
    return token.encode() if None in known else bytes(byte for byte in known if byte is not None)


def _from_pieces(token: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.replace("\u2581", " ").encode()


def _from_word_piece(token: str, *, prefix: str) -> bytes:
    """A piece with the prefix goes on with a word, any other begins one."""
    return (token.removeprefix(prefix) if token.startswith(prefix) else f" {token}").encode()


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder, of a GGUF file, or of a llama2.c file beside its tok*.bin.

    Raises ``NotFound`` when there is none, ``BadCheckpoint`` when it is broken.
    """
    single = gguf_location.find(path)
    if single is not None:
        from burnish.models.gguf.vocabulary import read_words

        words = read_words(single)
        return Tokenizer(
            words.backend,
            bos_token_id=_find_bos(words.backend, [words.config]),
            eos_token_ids=words.eos_token_ids,
            template=ChatTemplate.find(words.config, path / TEMPLATE),
        )
    file = llama2c.find(path)
    if file is not None:
        backend = tok_bin.convert(tok_bin.find(file))
        return Tokenizer(backend, bos_token_id=llama2c.MARK, eos_token_ids=frozenset((llama2c.MARK, llama2c.END)))
    if not (path / TOKENIZER).is_file():
        legacy = (path / "tokenizer.model").is_file()
        found = " (only SentencePiece's tokenizer.model)" if legacy else ""
        remedy = "Let transformers convert it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        raise NotFound(f"{str(path)!r} holds no {TOKENIZER}{found}", remedy=remedy)
    config = _read_optional(path / TOKENIZER_CONFIG)
    others = [_read_optional(path / name) for name in ("special_tokens_map.json", GENERATION, "config.json")]
    backend = _read_backend(path / TOKENIZER)
    return Tokenizer(
        backend,
        bos_token_id=_find_bos(backend, [config, *others]),
        eos_token_ids=_find_eos(backend, [config, *others]),
        template=ChatTemplate.find(config, path / TEMPLATE),
    )


def save_tokenizer(source: Path, folder: Path) -> None:
    """Give a model folder the tokenizer of another model: its files, or what they were converted to."""
    single = gguf_location.find(source)
    if single is not None:
        from burnish.models.gguf.vocabulary import read_words

        words = read_words(single)
        _write_converted(folder, words.backend, words.config)
        ends = json.dumps({"eos_token_id": sorted(words.eos_token_ids)}, indent=2)
        (folder / GENERATION).write_text(ends + "\n", encoding="utf-8")
        return
    if llama2c.find(source) is None:
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    tokens = {"bos_token": tok_bin.BEGIN, "eos_token": tok_bin.FINISH, "unk_token": tok_bin.UNKNOWN}
    _write_converted(folder, load_tokenizer(source).backend, tokens)


def _write_converted(folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    backend.save(str(folder / TOKENIZER))
    config = {**config, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_optional(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{str(path)!r} cannot be read: {error}", remedy="Fetch the file again") from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())
        raise BadCheckpoint(f"{str(path)!r} is no tokenizer: {reason}", remedy="Fetch the file again") from None


def _find_bos(backend: tokenizers.Tokenizer, configs: list[Mapping[str, Any]]) -> int | None:
    for config in configs:
        for token_id in (_token_id(backend, config.get("bos_token")), config.get("bos_token_id")):
            if _is_id(token_id):
                return token_id
    return None


def _find_eos(backend: tokenizers.Tokenizer, configs: list[Mapping[str, Any]]) -> frozenset[int]:
    """Every end token any of the files names: a model may stop at each of them."""
    found: set[int] = set()
    for config in configs:
        ids = config.get("eos_token_id")
        named = [_token_id(backend, config.get("eos_token")), *(ids if isinstance(ids, list) else [ids])]
        found |= {token_id for token_id in named if _is_id(token_id)}
    return frozenset(found)


def _token_id(backend: tokenizers.Tokenizer, token: object) -> int | None:
    """A token is spelt as a string, or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
