"""Tokenizers and streams of text: against the tokenizers library, SentencePiece and a plain merge loop."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadCheckpoint, BadRequest, BurnishError, NotFound
from burnish.models import tok_bin
from burnish.models.tokenizer import TextStream, Tokenizer, load_tokenizer, save_tokenizer
from tests.models import vocabularies
from tests.models.conftest import shared

KINDS = ["gpt2", "mistral", "stories"]
REPLACEMENT = "\ufffd"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("vocabularies"), dict[str, Path]()

    def folder(kind: str) -> Path:
        if kind == "stories":
            return shared("models/stories260k")
        if kind not in made:
            made[kind] = getattr(vocabularies, kind)(shared(f"tokenizers/{kind}"), root / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tokenizer(folders: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    loaded = dict[str, Tokenizer]()

    def find(kind: str) -> Tokenizer:
        if kind not in loaded:
            loaded[kind] = load_tokenizer(folders(kind))
        return loaded[kind]

    return find


Find = Callable[[str], Tokenizer]
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["Once", " upon", "  ", "\n", "é", "e\u0301", "🙂", "👩‍👩‍👧", "नि", "한", "\u200d", "<s>", "﷽"]),
    max_size=12,
).map("".join)
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@RELAXED
@given(data=st.data(), skip=st.booleans())
def test_pushes_and_finish_are_the_decoded_whole(kind: str, tokenizer: Find, data: st.DataObject, skip: bool) -> None:
    codec = tokenizer(kind)
    low_ids = st.integers(0, 300)  # specials, raw bytes
    ids = data.draw(st.lists(low_ids | st.integers(0, codec.vocab_size + 5), max_size=40))
    whole = codec.decode(ids, skip_special_tokens=skip)
    stream = TextStream(codec, skip_special_tokens=skip)
    pushes = [stream.push(token_id) for token_id in ids]
    assert "".join(pushes) + stream.finish() == whole
    kept = [i for i in ids if not (skip and i in codec.special_ids)]
    text = b"".join(codec.piece(i) for i in kept).decode(errors="replace")
    assert whole == (text.removeprefix(" ") if codec.strips_first_space else text)


@pytest.mark.parametrize("kind", KINDS)
@RELAXED
@given(text=TEXTS, cut=st.integers(0, 60))
def test_a_stream_continues_its_prompt(kind: str, tokenizer: Find, text: str, cut: int) -> None:
    codec = tokenizer(kind)
    ids = codec.encode(text)
    prompt, output = ids[:cut], ids[cut:]
    stream = TextStream(codec, prompt[-8:])
    streamed = "".join(map(stream.push, output)) + stream.finish()
    assert codec.decode(prompt).rstrip(REPLACEMENT) + streamed == codec.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@RELAXED
@given(text=TEXTS)
def test_text_survives_and_half_characters_never_show(kind: str, tokenizer: Find, text: str) -> None:
    codec = tokenizer(kind)
    ids = codec.encode(text)
    specials = [token for token in ("<unk>", "<s>", "</s>", "<|endoftext|>") if token in text]
    if not specials:
        assert codec.decode(ids) == text
        stream = TextStream(codec)
        assert all(REPLACEMENT not in stream.push(token_id) or REPLACEMENT in text for token_id in ids)
    assert codec.decode(ids) == codec.backend.decode(ids)


@pytest.mark.parametrize(("kind", "count"), [("gpt2", 2), ("stories", 4)])
def test_an_emoji_shows_once_its_last_byte_came(kind: str, count: int, tokenizer: Find) -> None:
    stream = TextStream(tokenizer(kind), tokenizer(kind).encode("a"))
    ids = tokenizer(kind).encode("a🙂")[-count:]
    assert [stream.push(token_id) for token_id in ids] == [""] * (count - 1) + ["🙂"]
    assert stream.finish() == ""


def test_bytes_that_never_become_a_character_are_replaced(tokenizer: Find) -> None:
    stream = TextStream(tokenizer("stories"), [1, 300])
    assert [stream.push(3 + 0xF0), stream.push(3 + 0x9F), stream.push(3 + ord("x"))] == ["", "", f"{REPLACEMENT}x"]
    assert (stream.push(3 + 0xC3), stream.finish()) == ("", REPLACEMENT)


# --- encoding -----------------------------------------------------------------------------------------------------


def greedy(pieces: list[tok_bin.Piece], text: str) -> list[int]:
    """llama2.c's encode: characters or their bytes, then the best-scoring neighbouring pair, again and again."""
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    tokens = [ids[" "]] if text else []
    for character in text:
        tokens += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        best = (-1e10, -1, -1)
        for at in range(len(tokens) - 1):
            joined = ids.get(pieces[tokens[at]].text + pieces[tokens[at + 1]].text)
            if joined is not None and pieces[joined].score > best[0]:
                best = (pieces[joined].score, joined, at)
        if best[1] < 0:
            return [1, *tokens]
        tokens[best[2] : best[2] + 2] = [best[1]]


def test_stories_tokens_are_those_of_the_plain_merge_loop(tokenizer: Find, stories: Path) -> None:
    codec, pieces = tokenizer("stories"), tok_bin.read(stories / "tok512.bin")
    text = shared("text/tinystories/tinystories_train_head.part1.txt").read_text()
    for start in range(0, 1_200_000, 10_000):
        part = text[start : start + 400]
        assert codec.encode(part) == greedy(pieces, part)
        assert codec.decode(codec.encode(part)) == part


@RELAXED
@given(text=TEXTS.filter(lambda text: "<" not in text))
def test_stories_tokens_of_any_text(tokenizer: Find, stories: Path, text: str) -> None:
    pieces = tok_bin.read(stories / "tok512.bin")
    assert tokenizer("stories").encode(text) == greedy(pieces, text)


def test_mistral_tokens_are_those_of_sentencepiece(tokenizer: Find) -> None:
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(shared("tokenizers/mistral/tokenizer.model.v1")))
    for text in ("Hello world", "naïve café 🙂 한국어", "def f(x):\n\treturn x  # twice", "   spaces"):
        assert tokenizer("mistral").encode(text) == [1, *oracle.encode(text)]


def test_special_tokens_follow_the_post_processor(tokenizer: Find) -> None:
    assert tokenizer("gpt2").encode("Hello world") == [15496, 995]
    assert tokenizer("mistral").encode("a")[0] == 1
    assert tokenizer("mistral").encode("a", add_special_tokens=False)[0] != 1
    assert tokenizer("stories").encode("") == [1]


def test_what_is_no_text_is_refused(tokenizer: Find) -> None:
    with pytest.raises(BadRequest, match="not Unicode"):
        tokenizer("gpt2").encode("a\ud800")


def test_pieces_are_the_bytes_of_tokens(tokenizer: Find) -> None:
    codec = tokenizer("gpt2")
    assert codec.piece(995) == b" world"
    assert codec.piece(codec.encode("<tool call>")[0]) == b"<tool call>"
    assert (codec.piece(10**9), codec.piece(-1), codec.decode([10**12, -5])) == (b"", b"", "")
    assert tokenizer("stories").piece(3 + 0xE9) == b"\xe9"
    assert {len(tokenizer("gpt2").piece(i)) for i in range(256)} == {1}


# --- folders ------------------------------------------------------------------------------------------------------


def test_begin_and_end_tokens(tokenizer: Find, folders: Callable[[str], Path], tmp_path: Path) -> None:
    assert (tokenizer("gpt2").bos_token_id, tokenizer("gpt2").eos_token_ids) == (50256, frozenset((50256,)))
    assert (tokenizer("mistral").bos_token_id, tokenizer("mistral").eos_token_ids) == (1, frozenset((2,)))
    assert (tokenizer("stories").bos_token_id, tokenizer("stories").eos_token_ids) == (1, frozenset((1, 2)))
    save_tokenizer(folders("gpt2"), tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8, true, -1, "9"], "bos_token_id": 5}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert load_tokenizer(tmp_path).eos_token_ids == {7, 8, 9, 50256}
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).bos_token_id == 5
    assert load_tokenizer(tmp_path).template is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same(
    kind: str, tokenizer: Find, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    save_tokenizer(folders(kind), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": sorted(tokenizer(kind).eos_token_ids)}))
    again, text = load_tokenizer(tmp_path), "Once upon a time 🙂\n  é"
    assert again.encode(text) == tokenizer(kind).encode(text)
    assert again.decode(again.encode(text)) == text
    assert (again.bos_token_id, again.eos_token_ids) == (tokenizer(kind).bos_token_id, tokenizer(kind).eos_token_ids)


def complaint(folder: Path, kind: type[BurnishError]) -> str:
    with pytest.raises(kind) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_broken_tokenizers(tmp_path: Path, stories: Path) -> None:
    assert "holds no tokenizer.json" in complaint(tmp_path, NotFound)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert "AutoTokenizer" in complaint(tmp_path, NotFound)
    for text in ("", "{", "[]", '{"model": {}}', "\udc00"):
        (tmp_path / "tokenizer.json").write_bytes(text.encode(errors="surrogatepass"))
        complaint(tmp_path, BadCheckpoint)
    (tmp_path / "stories260K.bin").write_bytes((stories / "stories260K.bin").read_bytes())
    assert "Put tok512.bin there" in complaint(tmp_path / "stories260K.bin", NotFound)
    (tmp_path / "tok512.bin").write_bytes((stories / "tok512.bin").read_bytes()[:-3])
    assert "no llama2.c vocabulary" in complaint(tmp_path / "stories260K.bin", BadCheckpoint)


SMALL: dict[str, Any] = {"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteLevel"}} | {
    "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "post_processor": None, "truncation": None, "padding": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}  # fmt: skip


def test_decoders_that_do_not_see_bytes_are_refused(tmp_path: Path) -> None:
    for decoder in (
        {"type": "BPEDecoder", "suffix": "</w>"},
        None,
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(SMALL | {"decoder": decoder}))
        assert "is not supported" in complaint(tmp_path, BadCheckpoint)


@RELAXED
@given(data=st.data())
def test_damaged_tokenizers_give_nothing_but_a_burnish_error(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(SMALL).encode())
    for at in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3)):
        text[at] = data.draw(st.integers(0, 255))
    (tmp_path / "tokenizer.json").write_bytes(bytes(text[: data.draw(st.sampled_from([len(text), len(text) // 2]))]))
    try:
        load_tokenizer(tmp_path).encode("abba")
    except BurnishError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some damage is harmless


def test_loading_a_tokenizer_loads_no_torch() -> None:
    script = "import burnish.models.tokenizer, burnish.models.locate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
