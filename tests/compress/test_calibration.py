"""Calibration data: every kind of document, the same pieces for the same seed, refusals that say what is needed."""

import json
from pathlib import Path

import pytest
import torch

from burnish.compress.calibration import Calibration, CalibrationConfig, read_calibration
from burnish.core.errors import BadSettings, NotFound
from burnish.core.types import Message
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from tests.tiny import BOS, VOCAB_SIZE, ByteTokenizer


def read(path: Path, config: CalibrationConfig | None = None, vocab_size: int = VOCAB_SIZE) -> Calibration:
    config = config or CalibrationConfig(samples=16, length=128)
    return read_calibration(path, ByteTokenizer(), config, vocab_size=vocab_size, max_positions=512)


def lines(path: Path, *documents: object) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def test_a_text_is_cut_into_pieces_that_do_not_overlap(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{number:07d}\n" for number in range(800)))
    found = read(file)
    assert found.tokens.shape == (16, 128)
    assert len({tuple(sample) for sample in found.tokens.tolist()}) == 16
    whole = [BOS, *file.read_bytes()]
    pieces = [whole[at : at + 128] for at in range(0, len(whole) - 127, 128)]
    places = [pieces.index(sample) for sample in found.tokens.tolist()]
    assert places == sorted(places)


def test_the_seed_draws_and_the_hash_tells(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{number:07d}\n" for number in range(2000)))
    runs = [read(file, CalibrationConfig(samples=16, length=128, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0].record == runs[1].record
    assert runs[0].record.sha256 == runs[2].record.sha256  # of the whole text
    assert not torch.equal(runs[0].tokens, runs[2].tokens)
    assert (runs[2].record.samples, runs[2].record.length, runs[2].record.seed) == (16, 128, 1)


def test_chats_go_through_the_template_and_token_ids_as_they_are(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello " * 30}, {"role": "assistant", "content": "well"}]
    file = lines(tmp_path / "data.jsonl", {"messages": chat}, {"tokens": [7] * 2000}, {"text": "the end"})
    config = CalibrationConfig(samples=64, length=64)
    tokens = read(file, config).tokens.flatten().tolist()
    rendered = [BOS, *f"user: {'hello ' * 30}\nassistant: well\n".encode()]
    assert tokens[: len(rendered)] == rendered
    assert tokens[len(rendered) : len(rendered) + 1000] == [7] * 1000


def test_an_answer_begins_behind_a_question_and_never_behind_an_answer(tmp_path: Path) -> None:
    """The words that begin an answer, with none behind them, are no text a model meets."""
    turns = [{"role": role, "content": "hello " * 40} for role in ("user", "assistant", "user")]
    tokenizer, config = load_tokenizer(locate("builtin")), CalibrationConfig(samples=64, length=64)
    begun = tokenizer.chat([Message("user", "x")])
    begun = begun[len(tokenizer.chat([Message("user", "x")], to_answer=False)) :]
    for messages, asks in ((turns, True), (turns[:2], False)):
        file = lines(tmp_path / "data.jsonl", *[{"messages": messages}] * 40)
        text = read_calibration(file, tokenizer, config, vocab_size=4096, max_positions=512).text.tolist()
        chat = tokenizer.chat([Message(one["role"], one["content"]) for one in messages], to_answer=asks)
        assert text == 40 * chat
        assert (text[-len(begun) :] == begun) == asks


def test_a_model_that_sees_less_gets_shorter_pieces(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("x" * 4000)
    assert read(file, CalibrationConfig(samples=8, length=2000)).tokens.shape == (7, 512)


@pytest.mark.parametrize("text", ["", "short", "x" * 2000])
def test_too_little_says_how_much_is_needed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    with pytest.raises(BadSettings, match=rf"holds {len(text) + 1} tokens, too few\. Give 2048 or more; 2048 are used"):
        read(file)


def test_tokens_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("x" * 4000)
    with pytest.raises(BadSettings, match=r"has token 256, the model knows 200\. Use the tokenizer the model was"):
        read(file, vocab_size=200)


@pytest.mark.parametrize(
    "line", ["no json", "[1]", '{"words": "x"}', '{"tokens": [-1]}', '{"tokens": [true]}', '{"messages": []}']
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(
        BadSettings, match=r"line 2 of .*data\.jsonl' is no JSON object with a text, messages or tokens"
    ):
        read(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.txt' does not exist"):
        read(tmp_path / "absent.txt")


@pytest.mark.parametrize(("samples", "length"), [(0, 512), (16, 0), (3, 512)])
def test_sizes_that_calibrate_nothing_are_refused(samples: int, length: int) -> None:
    with pytest.raises(BadSettings, match=r"too (small|few)"):
        CalibrationConfig(samples=samples, length=length)
