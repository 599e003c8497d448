"""A tokenizer as the metadata of a GGUF file: the reverse of ``vocabulary``. Loads no torch.

llama.cpp knows two kinds that burnish has: byte-level BPE by its merges, with one of the named ways to split a text
into words, and SentencePiece's BPE by scores. Merges become scores where they are the merges of scores.

Source: ggml-org/ggml, docs/gguf.md (the keys); ggml-org/llama.cpp, src/llama-vocab.cpp (what each kind does).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from burnish.core.errors import BadCheckpoint
from burnish.models.gguf.vocabulary import CONTROL, KEY, LLAMA3, NORMAL, QWEN2, SPLITS, UNKNOWN, USER_DEFINED
from burnish.models.tokenizer import Tokenizer

UNUSED, BYTE = 5, 6
SPACE = "\u2581"
REMEDY = "Export it with --to hf"
_NAMES = {name: SPLITS[name] for name in ("gpt-2", "smollm", LLAMA3[0], "tekken", QWEN2[0])}
_WHOLE_WORDS = (LLAMA3[0], "tekken")  # a word that is a token needs no merges
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_ENDS = ("eos", "eot", "eom")


class _Words(NamedTuple):
    """The tokens by id, and what tokenizer.json says of them."""

    spec: Mapping[str, Any]
    tokens: list[str]
    types: list[int]

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of pieces, the first to be joined first."""
        listed = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in self.spec["model"]["merges"])
        return [(left, right) for left, right in listed]


def describe_words(tokenizer: Tokenizer, config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Key -> value of a tokenizer; ``config`` is what tokenizer_config.json says, ``vocab_size`` the model's.

    Raises ``BadCheckpoint`` for one that llama.cpp would read text with differently.
    """
    words = _read(tokenizer, vocab_size)
    decoder = json.dumps(words.spec["decoder"])
    described = _byte_level(words) if "ByteLevel" in decoder else _by_score(words)
    described |= _marks(tokenizer) | _named(tokenizer, config, words.spec)
    return {f"{KEY}.{key}": value for key, value in described.items()} | _template(config)


def _read(tokenizer: Tokenizer, vocab_size: int) -> _Words:
    spec = json.loads(tokenizer.backend.to_str())
    if spec["model"]["type"] != "BPE":
        raise _refusal(f"a tokenizer of kind {spec['model']['type']}")
    if tokenizer.vocab_size > vocab_size:
        raise BadCheckpoint(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}",
            remedy="Use the tokenizer the model was trained with",
        )
    tokens, types = [f"[PAD{index}]" for index in range(vocab_size)], [UNUSED] * vocab_size
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        tokens[index], types[index] = token, NORMAL
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        types[index] = CONTROL if added.special else USER_DEFINED
    return _Words(spec, tokens, types)


def _refusal(what: str) -> BadCheckpoint:
    return BadCheckpoint(f"llama.cpp would read text differently: it has no words for {what}", remedy=REMEDY)


# --- byte-level BPE -----------------------------------------------------------------------------------------------


def _byte_level(words: _Words) -> dict[str, Any]:
    """llama.cpp never normalizes, so a text that is not in normal form C may be read differently where NFC is asked."""
    if _kinds(words.spec["normalizer"]) not in ([], ["NFC"]):
        raise _refusal(f"the normalizer {'+'.join(_kinds(words.spec['normalizer']))}")
    return {
        "model": "gpt2",
        "pre": _split_name(words),
        "tokens": words.tokens,
        "token_type": words.types,
        "merges": [" ".join(pair) for pair in words.merges],
    }


def _split_name(words: _Words) -> str:
    if not words.merges:  # each byte is a token, however the text is split
        return "gpt-2"
    asked, whole = _split(words.spec["pre_tokenizer"]), bool(words.spec["model"].get("ignore_merges"))
    for name, known in _NAMES.items():
        same = _split(json.loads(known.__getstate__())) == asked
        if same and whole == (name in _WHOLE_WORDS):
            return name
    raise _refusal("the way this tokenizer splits a text into words")


def _split(pre_tokenizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps that decide where a text is split."""
    steps = _steps(pre_tokenizer, "pretokenizers")
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _steps(spec: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The parts of a sequence, or the one part."""
    if spec is None:
        return []
    return list(spec[key]) if spec["type"] == "Sequence" else [dict(spec)]


def _kinds(normalizer: Mapping[str, Any] | None) -> list[str]:
    return [step["type"] for step in _steps(normalizer, "normalizers")]


# --- SentencePiece's BPE ------------------------------------------------------------------------------------------


def _by_score(words: _Words) -> dict[str, Any]:
    model = words.spec["model"]
    if not model.get("byte_fallback") or model.get("ignore_merges"):
        raise _refusal("a SentencePiece tokenizer without bytes for unknown characters")
    types = [BYTE if kind == NORMAL and _BYTE_TOKEN.fullmatch(t) else kind for t, kind in _listed(words)]
    unknown = model.get("unk_token")
    types = [UNKNOWN if token == unknown else kind for token, kind in zip(words.tokens, types, strict=True)]
    spaced = [_spaced(token) if kind == NORMAL else token for token, kind in zip(words.tokens, types, strict=True)]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": spaced,
        "scores": _scores(words),
        "token_type": types,
        "add_space_prefix": _leads_with_space(words.spec),
    }


def _listed(words: _Words) -> Sequence[tuple[str, int]]:
    return list(zip(words.tokens, words.types, strict=True))


def _spaced(token: str) -> str:
    """Spaces as SentencePiece spells them; llama2.c's vocabularies spell them as they are."""
    return token.replace(" ", SPACE)


def _scores(words: _Words) -> list[float]:
    """Scores that lead to the same merges: minus the rank of a piece among what is merged.

    Raises ``BadCheckpoint`` when the merges of one piece do not stand together, or a way to join it is missing: no
    score says that.
    """
    ranks: dict[str, int] = {}
    last = ""
    for left, right in words.merges:
        if (joined := left + right) != last:
            if joined in ranks:
                raise _refusal("merges that are not ordered by the piece they make")
            ranks[joined], last = len(ranks), joined
    known = {token for token, kind in _listed(words) if kind == NORMAL}
    given = set(words.merges)
    for piece in ranks:
        cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        if any(cut not in given for cut in cuts if cut[0] in known and cut[1] in known):
            raise _refusal(f"the merges of {piece!r}, of which one is missing")
    lowest = -float(len(ranks))
    return [-float(ranks[token]) if token in ranks else lowest for token in words.tokens]


def _leads_with_space(spec: Mapping[str, Any]) -> bool:
    """Whether a text begins with a space that is not its own. Raises ``BadCheckpoint`` for any other rule."""
    normalizing = _steps(spec["normalizer"], "normalizers")
    splitting = _steps(spec["pre_tokenizer"], "pretokenizers")
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    leads = [step for step in normalizing if step["type"] == "Prepend" and step["prepend"] in (" ", SPACE)]
    rest = [step for step in normalizing if step not in leads and step != replaces]
    spaces = [step for step in splitting if step["type"] == "Metaspace" and step.get("split") is False]
    # splitting at spaces that the normalizer has replaced splits nowhere
    rest += [step for step in splitting if step not in spaces and step.get("pattern") != {"String": " "}]
    if rest or len(leads) + len(spaces) > 1:
        raise _refusal(f"the step {(rest or leads)[0]['type']} of this tokenizer")
    return bool(leads) or any(step["prepend_scheme"] != "never" for step in spaces)


# --- marks --------------------------------------------------------------------------------------------------------


def _marks(tokenizer: Tokenizer) -> dict[str, Any]:
    """Whether the begin and end tokens are added to a text."""
    plain, marked = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    at = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
    before, after = marked[:at], marked[at + len(plain) :]
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], *([end] for end in tokenizer.eos_token_ids)):
        raise _refusal(f"the tokens {before} before and {after} behind a text")
    return {"add_bos_token": bool(before), "add_eos_token": bool(after)}


def _named(tokenizer: Tokenizer, config: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens by their roles. llama.cpp stops at three named ends, and at those it knows by their text."""
    ids: dict[str, int | None] = {"bos": tokenizer.bos_token_id}
    first = _id(tokenizer, config.get("eos_token"))
    ends = sorted(tokenizer.eos_token_ids, key=lambda end: (end != first, end))
    ids |= dict(zip(_ENDS, ends, strict=False))
    ids["unknown"] = _id(tokenizer, config.get("unk_token") or spec["model"].get("unk_token"))
    ids["padding"] = _id(tokenizer, config.get("pad_token"))
    return {f"{role}_token_id": index for role, index in ids.items() if index is not None}


def _id(tokenizer: Tokenizer, token: object) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return tokenizer.backend.token_to_id(content) if isinstance(content, str) else None


def _template(config: Mapping[str, Any]) -> dict[str, Any]:
    template = config.get("chat_template")
    return {"tokenizer.chat_template": template} if isinstance(template, str) else {}
