"""Multiple choice by log-likelihood: what is read, what is right, and how two models are compared."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from burnish.core.errors import BadSettings, NotFound
from burnish.measure.quality.choices import Item, accuracy, answer, contest, read_items, spread
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend
from burnish.plan.lower import lower
from tests.tiny import ByteTokenizer, tiny_decoder

ITEMS = [
    Item("The cat ", ("sat.", "sat down on it."), 0, ""),
    Item("", ("One.", "Two and more."), 1, "counting"),
    Item("A dog ", ("ran", "sat", "ate"), 2, ""),
    Item("Rain", (" fell.", " ran."), 0, ""),
]


@pytest.fixture
def decoder() -> Decoder:
    return tiny_decoder(seed=3)


def likelihood(decoder: Decoder, context: str, choice: str) -> float:
    """Log-likelihood of a choice, one token at a time, from the definition."""
    codec = ByteTokenizer()
    assert codec.bos_token_id is not None
    before = [codec.bos_token_id, *codec.encode(context, add_special_tokens=False)]
    tokens = [*before, *codec.encode(choice, add_special_tokens=False)]
    hidden = decoder(torch.tensor(tokens), torch.arange(len(tokens)), causal_attend(1, len(tokens)))
    chances = decoder.logits(hidden).double().log_softmax(-1)
    return sum(float(chances[i - 1, tokens[i]]) for i in range(len(before), len(tokens)))


def test_the_likeliest_choice_is_the_answer_by_definition(decoder: Decoder) -> None:
    seen: list[tuple[int, int]] = []
    with torch.no_grad():
        expected = [[likelihood(decoder, item.context, choice) for choice in item.choices] for item in ITEMS]
    per_byte = [
        [value / len(choice) for value, choice in zip(values, item.choices, strict=True)]
        for values, item in zip(expected, ITEMS, strict=True)
    ]
    for model in (decoder, lower(decoder)):
        found = answer(model, ByteTokenizer(), ITEMS, context=64, progress=lambda *moved: seen.append(moved))
        for right, values in ((found.right, expected), (found.right_normalized, per_byte)):
            best = [int(np.argmax(chances)) for chances in values]
            assert right.tolist() == [float(b == item.answer) for b, item in zip(best, ITEMS, strict=True)]
    assert seen[-1] == (9, 9)


def test_a_tie_is_a_miss(decoder: Decoder) -> None:
    same = [Item("The cat ", ("sat.", "sat."), 0, "")]
    assert answer(decoder, ByteTokenizer(), same, context=64, progress=lambda *_: None).right.tolist() == [0.0]


def test_an_item_that_cannot_be_scored_is_refused(decoder: Decoder) -> None:
    with pytest.raises(BadSettings, match="a choice has 41 tokens, the model sees 16"):
        answer(decoder, ByteTokenizer(), [Item("", ("x" * 40, "y"), 0, "")], context=16, progress=lambda *_: None)


def test_items_of_both_forms_and_of_gzip(tmp_path: Path) -> None:
    rows = [
        {"context": "A", "choices": ["b", "c"], "answer": 1, "group": "letters"},
        {"sentence_good": "He runs.", "sentence_bad": "He run.", "UID": "agreement"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    expected = [Item("A", ("b", "c"), 1, "letters"), Item("", ("He runs.", "He run."), 0, "agreement")]
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert read_items(tmp_path / "a.jsonl") == read_items(tmp_path / "a.jsonl.gz") == expected


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"choices": ["a"], "answer": 0}',
        '{"choices": ["a", ""], "answer": 0}',
        '{"choices": ["a", "b"], "answer": 2}',
        '{"choices": ["a", "b"], "answer": true}',
        '{"context": 3, "choices": ["a", "b"], "answer": 0}',
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"choices": ["a", "b"], "answer": 0}\n' + line)
    with pytest.raises(BadSettings, match=r"line 2 of .* is no multiple choice"):
        read_items(path)


def test_files_that_hold_no_items(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="do not exist"):
        read_items(tmp_path / "missing.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(BadSettings, match="cannot be read"):
        read_items(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(BadSettings, match="hold no item"):
        read_items(tmp_path / "a.jsonl")


def test_fewer_items_are_spread_over_the_file() -> None:
    assert spread(ITEMS, 2) == [ITEMS[0], ITEMS[2]]
    assert spread(ITEMS, None) == spread(ITEMS, 9) == ITEMS
    with pytest.raises(BadSettings, match="max_items 0 is too small"):
        spread(ITEMS, 0)


def test_accuracy_has_wilsons_interval() -> None:
    found = accuracy(np.array([1.0] * 8 + [0.0] * 2))
    assert found == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # Wilson 1927, computed by hand
    assert accuracy(np.ones(5)).high == 1


def test_a_contest_counts_what_flipped() -> None:
    theirs = np.array([1.0] * 30 + [0.0] * 10)
    ours = theirs.copy()
    ours[:9], ours[-1] = 0, 1
    found = contest(ours, theirs)
    assert (found.num_lost, found.num_won) == (9, 1)
    assert found.flip_rate.value == 10 / 40
    assert found.difference.value == pytest.approx(-8 / 40)
    assert found.difference.high < 0
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert contest(ours, ours).p_value == 1


def test_many_flips_have_a_p_value_too() -> None:
    ours = np.array([1.0, 0.0] * 3000)
    assert contest(ours, 1 - ours).p_value == 1
    assert not math.isnan(contest(np.ones(5000), np.zeros(5000)).p_value)
