"""The tokenizer in a GGUF file as one of the ``tokenizers`` library. Loads no torch.

Source: ggml-org/ggml, docs/gguf.md (the keys); ggml-org/llama.cpp, src/llama-vocab.cpp (what each kind does).
"""

from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from burnish.core.errors import NotFound
from burnish.models.gguf.reader import Metadata, open_file
from burnish.models.tok_bin import Piece, merges

KEY = "tokenizer.ggml"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
# Control tokens that end an answer, whatever the file says of its end token (llama-vocab.cpp, "EOG").
ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>")
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Words(NamedTuple):
    """A tokenizer: the rules, and what tokenizer_config.json and generation_config.json would say."""

    backend: tokenizers.Tokenizer
    config: dict[str, Any]
    eos_token_ids: frozenset[int]


class _Vocabulary(NamedTuple):
    """The tokens by id, and the keys of the file."""

    metadata: Metadata
    tokens: list[str]
    types: list[int]

    def token(self, name: str) -> str | None:
        """The text of the token a key names by its id."""
        token_id = self.metadata.get(f"{KEY}.{name}_token_id", int)
        if token_id is None:
            return None
        if not 0 <= token_id < len(self.tokens):
            raise self.metadata.fault(f"{KEY}.{name}_token_id = {token_id} is no token of {len(self.tokens)}")
        return self.tokens[token_id]

    def ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}


def read_words(file: Path) -> Words:
    """The tokenizer of a file.

    Raises ``NotFound`` when it holds none, ``BadCheckpoint`` for one that is broken or of a kind burnish lacks.
    """
    metadata = open_file(file).metadata
    kind = metadata.get(f"{KEY}.model", str, "none")
    if kind in ("none", "no_vocab") or f"{KEY}.tokens" not in metadata:
        raise NotFound(f"{str(file)!r} holds no tokenizer", remedy="Convert the model again, with its tokenizer")
    if kind not in _KINDS:
        raise metadata.fault(f"tokenizer {str(kind)[:40]!r} is not supported", f"Known: {', '.join(_KINDS)}")
    vocabulary = _read_vocabulary(metadata)
    backend, adds_begin = _KINDS[kind](vocabulary)
    backend.post_processor = _marks(vocabulary, adds_begin)
    special = [t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in (UNKNOWN, CONTROL)]
    spelt = [t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == USER_DEFINED]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in spelt])
    return Words(backend, _config(vocabulary), _ends(vocabulary))


def _read_vocabulary(metadata: Metadata) -> _Vocabulary:
    tokens = metadata.need(f"{KEY}.tokens", list)
    types = metadata.get(f"{KEY}.token_type", list) or [NORMAL] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens) or not all(isinstance(t, str) for t in tokens):
        raise metadata.fault(f"the {len(tokens)} tokens repeat, or have {len(types)} types")
    return _Vocabulary(metadata, tokens, types)


def _byte_level(vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """BPE over bytes with its merges, as GPT-2's; and whether a text begins with a mark by default."""
    metadata = vocabulary.metadata
    name = metadata.get(f"{KEY}.pre", str, "default") or "default"
    if name not in SPLITS:
        raise metadata.fault(f"pre-tokenizer {name[:40]!r} is not supported", f"Known: {', '.join(SPLITS)}")
    pairs = [tuple(merge.split(" ", 1)) for merge in (metadata.get(f"{KEY}.merges", list) or [])]
    whole = name in (*LLAMA3, "tekken")  # a word that is a token needs no merges
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocabulary.ids(), pairs, ignore_merges=whole))
    except Exception as error:  # the library raises nothing narrower
        raise metadata.fault(f"the merges do not fit the tokens: {' '.join(str(error).split())[:200]}") from None
    backend.pre_tokenizer, backend.decoder = SPLITS[name], decoders.ByteLevel()
    if name in QWEN2:
        backend.normalizer = normalizers.NFC()
    return backend, whole


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), by_bytes])


_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2])
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = ("qwen2", "deepseek-r1-qwen")
SPLITS = {
    **dict.fromkeys(("default", "gpt-2", "gpt2"), _GPT2),
    "smollm": _DIGITS,
    **dict.fromkeys(LLAMA3, _split(_LETTERS + r"\p{N}{1,3}" + _REST)),
    "tekken": _split(TEKKEN),
    **dict.fromkeys(QWEN2, _split(_LETTERS + r"\p{N}" + _REST)),
}


def _by_score(vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """SentencePiece's BPE: the joined piece of the best score first, bytes for what is no piece."""
    metadata, tokens = vocabulary.metadata, vocabulary.tokens
    scores = metadata.need(f"{KEY}.scores", list)
    if len(scores) != len(tokens):
        raise metadata.fault(f"{len(tokens)} tokens have {len(scores)} scores")
    listed = zip(tokens, scores, vocabulary.types, strict=True)
    pieces = [Piece(token, score) for token, score, kind in listed if kind == NORMAL]
    unknown = vocabulary.token("unknown") or next(
        (token for token, kind in zip(tokens, vocabulary.types, strict=True) if kind == UNKNOWN), None
    )
    model = models.BPE(vocabulary.ids(), merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend, leads = tokenizers.Tokenizer(model), metadata.get(f"{KEY}.add_space_prefix", bool, True)
    steps = [normalizers.Prepend("\u2581")] if leads else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] if leads else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend, True


_KINDS = {"gpt2": _byte_level, "llama": _by_score}


def _marks(vocabulary: _Vocabulary, adds_begin: bool) -> processors.TemplateProcessing | None:
    """The tokens that begin and end a text, as the file wants them added."""
    metadata, ids = vocabulary.metadata, vocabulary.ids()
    begin = vocabulary.token("bos") if metadata.get(f"{KEY}.add_bos_token", bool, adds_begin) else None
    end = vocabulary.token("eos") if metadata.get(f"{KEY}.add_eos_token", bool, False) else None
    if begin is None and end is None:
        return None
    single, pair = ([*filter(None, (begin,)), text, *filter(None, (end,))] for text in ("$A", "$B"))
    marks = [(token, ids[token]) for token in {begin, end} - {None} if token is not None]
    return processors.TemplateProcessing(single=single, pair=[*single, *pair], special_tokens=marks)


def _config(vocabulary: _Vocabulary) -> dict[str, Any]:
    """tokenizer_config.json."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    named = {theirs: vocabulary.token(ours) for ours, theirs in names.items()}
    named["chat_template"] = vocabulary.metadata.get("tokenizer.chat_template", str)
    return {name: value for name, value in named.items() if value is not None}


def _ends(vocabulary: _Vocabulary) -> frozenset[int]:
    named = {vocabulary.token(name) for name in ("eos", "eot", "eom")}
    listed = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return frozenset(i for i, (t, kind) in enumerate(listed) if t in named or (kind == CONTROL and t in ENDS))
