"""Tokenizers in GGUF files, held against the tokenizer.json and the SentencePiece model they were made of."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import gguf
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

import burnish
from burnish.core.errors import BadCheckpoint, NotFound
from burnish.core.types import Message
from burnish.models.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from tests.models import gguf_files, vocabularies
from tests.models.conftest import shared

STORIES = Path(burnish.__file__).parent / "builtin" / "stories"
MESSAGES = [Message(role="user", content="Tell me a story.")]
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ["Once", " upon", "  ", "\n\n", "é", "e\u0301", "🙂", "नि", "12345", "don't", "<|end|>", "▁", "</s>"]
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("gguf") / "stories.gguf"
    return load_tokenizer(gguf_files.write_vocabulary(path, partial(gguf_files.add_byte_level, folder=STORIES)))


@pytest.fixture(scope="module")
def mistral(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tokenizer, Tokenizer, sentencepiece.SentencePieceProcessor]:
    """From the file, from the tokenizer.json, and SentencePiece itself."""
    folder, source = tmp_path_factory.mktemp("gguf"), shared("tokenizers/mistral")
    model = source / "tokenizer.model.v1"
    path = gguf_files.write_vocabulary(folder / "mistral.gguf", partial(gguf_files.add_pieces, model=model))
    theirs = load_tokenizer(vocabularies.mistral(source, folder / "json"))
    return load_tokenizer(path), theirs, sentencepiece.SentencePieceProcessor(model_file=str(model))


@settings(deadline=None)
@given(text=TEXTS)
def test_bytes_are_read_as_the_tokenizer_json_reads_them(stories: Tokenizer, text: str) -> None:
    original = load_tokenizer(STORIES)
    ids = original.encode(text)
    assert stories.encode(text) == ids
    assert stories.decode(ids) == original.decode(ids)


def test_marks_ends_and_template_are_the_same(stories: Tokenizer) -> None:
    original = load_tokenizer(STORIES)
    assert (stories.bos_token_id, stories.eos_token_ids) == (original.bos_token_id, original.eos_token_ids)
    assert stories.special_ids == original.special_ids
    assert stories.vocab_size == original.vocab_size
    assert stories.chat(MESSAGES) == original.chat(MESSAGES)


@settings(deadline=None)
@given(text=TEXTS)
def test_pieces_are_read_as_by_sentencepiece(
    mistral: tuple[Tokenizer, Tokenizer, sentencepiece.SentencePieceProcessor], text: str
) -> None:
    ours, theirs, processor = mistral
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    if not any(token in text for token in ("<s>", "</s>", "<unk>")):
        assert ids == [1, *processor.encode(text)] or not text
        assert ours.decode(ids) == text.replace("\u2581", " ")  # SentencePiece's own loss


def test_pieces_without_a_leading_space_and_with_an_end(tmp_path: Path) -> None:
    def flags(writer: gguf.GGUFWriter) -> None:
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(True)

    model = shared("tokenizers/mistral") / "tokenizer.model.v1"
    codec = load_tokenizer(
        gguf_files.write_vocabulary(tmp_path / "m.gguf", partial(gguf_files.add_pieces, model=model), flags)
    )
    ids = codec.encode("Once upon")
    assert [codec.piece(i) for i in ids] == [b"Once", b" upon", b"</s>"]
    assert codec.decode(ids) == "Once upon"
    assert codec.decode(codec.encode(" two")) == " two"


def test_an_added_token_that_is_text(tmp_path: Path) -> None:
    folder = vocabularies.gpt2(shared("tokenizers/gpt2"), tmp_path / "json")
    add = partial(gguf_files.add_byte_level, folder=folder, adds_begin=False)
    ours, theirs = load_tokenizer(gguf_files.write_vocabulary(tmp_path / "gpt2.gguf", add)), load_tokenizer(folder)
    text = "a <tool call> in 2024<|endoftext|>\n\n  done"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken"])
def test_texts_are_split_as_the_models_were_trained(tmp_path: Path, pre: str) -> None:
    add = partial(gguf_files.add_byte_level, folder=STORIES, pre=pre)
    splits = load_tokenizer(gguf_files.write_vocabulary(tmp_path / "m.gguf", add)).backend.pre_tokenizer
    text = "It's 12345 O'Clock,\r\n\n don't   HELLOworld نص 汉字 _x  \t!?//\n end  "
    theirs = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[pre]), "isolated").pre_tokenize_str(text)
    assert splits is not None
    assert [span for _, span in splits.pre_tokenize_str(text)] == [span for _, span in theirs]


def test_a_saved_tokenizer_is_the_same(stories: Tokenizer, tmp_path: Path) -> None:
    path = gguf_files.write_vocabulary(tmp_path / "m.gguf", partial(gguf_files.add_byte_level, folder=STORIES))
    (tmp_path / "json").mkdir()
    save_tokenizer(path, tmp_path / "json")
    again = load_tokenizer(tmp_path / "json")
    assert again.encode("Once upon a time.<|end|>") == stories.encode("Once upon a time.<|end|>")
    assert (again.bos_token_id, again.eos_token_ids) == (stories.bos_token_id, stories.eos_token_ids)
    assert again.chat(MESSAGES) == stories.chat(MESSAGES)


@pytest.mark.parametrize(
    ("kind", "pre", "words"),
    [("gpt2", "chameleon", "pre-tokenizer 'chameleon' is not supported"), ("t5", "default", "tokenizer 't5' is not")],
)
def test_unknown_kinds_are_one_clear_line(tmp_path: Path, kind: str, pre: str, words: str) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.model"].value = kind

    path = gguf_files.write_vocabulary(
        tmp_path / "m.gguf", partial(gguf_files.add_byte_level, folder=STORIES, pre=pre), change
    )
    with pytest.raises(BadCheckpoint, match=words) as caught:
        load_tokenizer(path)
    assert caught.value.remedy.startswith("Known: ")


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.bos_token_id"].value = 4096

    path = gguf_files.write_vocabulary(tmp_path / "m.gguf", partial(gguf_files.add_byte_level, folder=STORIES), change)
    with pytest.raises(BadCheckpoint, match="bos_token_id = 4096 is no token of 4096"):
        load_tokenizer(path)


def test_a_file_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    path = gguf_files.write_vocabulary(tmp_path / "m.gguf", lambda writer: writer.add_context_length(8))
    with pytest.raises(NotFound, match="holds no tokenizer"):
        load_tokenizer(path)


def test_reading_one_loads_no_torch_and_another_model_no_gguf(tmp_path: Path) -> None:
    path = gguf_files.write_vocabulary(tmp_path / "m.gguf", partial(gguf_files.add_byte_level, folder=STORIES))
    code = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from burnish.models.tokenizer import load_tokenizer\n"
        f"load_tokenizer(Path({str(STORIES)!r})); assert 'gguf' not in sys.modules\n"
        f"load_tokenizer(Path({str(path)!r})); assert 'gguf' in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
