"""Perplexity: against the definition computed one token at a time, its properties, and paired comparisons."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from burnish.core.errors import BadSettings, NotFound
from burnish.measure.quality import logits as room
from burnish.measure.quality.corpus import Corpus, read_corpus
from burnish.measure.quality.perplexity import (
    Passage,
    QualityConfig,
    compare,
    likeness,
    pair,
    prepare,
    quality,
    token_losses,
)
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend
from tests.tiny import ByteTokenizer, tiny_decoder

TEXT = "Once upon a time there was a little café. " * 8


class WithoutBos(ByteTokenizer):
    bos_token_id = None


class WithStranger(ByteTokenizer):
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [*super().encode(text), 70_000]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return tiny_decoder()


def passage_of(decoder: Decoder, config: QualityConfig, codec: ByteTokenizer | None = None) -> Passage:
    return prepare(Corpus(TEXT), codec or ByteTokenizer(), decoder.config, config)


def loss_of(decoder: Decoder, context: list[int], target: int) -> float:
    """The definition: minus the log-probability of one token after its context."""
    rows = torch.tensor(context)
    hidden = decoder(rows, torch.arange(len(rows)), causal_attend(1, len(rows)))
    return -float(decoder.logits(hidden[-1:])[0].double().log_softmax(-1)[target])


@pytest.mark.parametrize("codec", [ByteTokenizer(), WithoutBos()])
def test_every_loss_is_the_definition(decoder: Decoder, codec: ByteTokenizer) -> None:
    config = QualityConfig(context=24, stride=7, max_tokens=66)
    passage = passage_of(decoder, config, codec)
    lead = [] if codec.bos_token_id is None else [codec.bos_token_id]
    length, tokens = 24 - len(lead), list(passage.tokens)
    expected = []
    for token in range(1 - len(lead), len(tokens)):
        window_end = token + 1 if token < length else length + -(-(token + 1 - length) // 7) * 7
        begin = max(0, min(window_end, len(tokens)) - length)
        expected.append(loss_of(decoder, lead + tokens[begin:token], tokens[token]))
    np.testing.assert_allclose(token_losses(decoder, passage), expected, atol=2e-5)


def test_a_text_that_fits_the_context_is_one_forward_pass(decoder: Decoder) -> None:
    passage = passage_of(decoder, QualityConfig(context=512, stride=256))
    tokens = torch.tensor([256, *passage.tokens])
    hidden = decoder(tokens[:-1], torch.arange(len(tokens) - 1), causal_attend(1, len(tokens) - 1))
    mean = torch.nn.functional.cross_entropy(decoder.logits(hidden).double(), tokens[1:])
    found = quality(token_losses(decoder, passage), passage)
    assert found.perplexity.value == pytest.approx(math.exp(mean), rel=1e-5)
    assert found.num_tokens == len(passage.tokens) == len(TEXT.encode())


@pytest.mark.parametrize("stride", [1, 5, 15, 30])
def test_the_stride_does_not_change_the_first_window(decoder: Decoder, stride: int) -> None:
    whole = token_losses(decoder, passage_of(decoder, QualityConfig(context=512, stride=1, max_tokens=90)))
    cut = token_losses(decoder, passage_of(decoder, QualityConfig(context=31, stride=stride, max_tokens=90)))
    assert len(cut) == len(whole) == 90
    np.testing.assert_allclose(cut[:30], whole[:30], atol=2e-5)


def test_batches_of_windows_and_slices_of_logits_change_nothing(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passage = passage_of(decoder, QualityConfig(context=32, stride=9))
    together = token_losses(decoder, passage)
    monkeypatch.setattr(room, "BATCH_TOKENS", 1)
    monkeypatch.setattr(room, "LOGITS_AT_ONCE", 259 * 4)
    np.testing.assert_allclose(token_losses(decoder, passage), together, atol=2e-5)


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary() -> None:
    decoder = tiny_decoder()
    decoder.embed_tokens.weight.zero_()
    passage = passage_of(decoder, QualityConfig(context=64, stride=32))
    found = quality(token_losses(decoder, passage), passage)
    assert found.perplexity == pytest.approx((259, 259, 259), rel=1e-5)
    assert found.bits_per_byte.value == pytest.approx(math.log2(259), rel=1e-6)
    assert found.num_bytes == len(TEXT.encode())


def test_the_context_shrinks_to_what_the_model_sees() -> None:
    decoder = tiny_decoder(max_positions=40)
    passage = passage_of(decoder, QualityConfig())
    assert (passage.config.context, passage.config.stride) == (40, 20)
    assert len(token_losses(decoder, passage)) == len(passage.tokens)


def test_progress_ends_at_everything(decoder: Decoder) -> None:
    seen: list[tuple[int, int]] = []
    passage = passage_of(decoder, QualityConfig(context=300, stride=7))
    token_losses(decoder, passage, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(passage.tokens), len(passage.tokens))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_model_against_itself_loses_exactly_nothing(decoder: Decoder) -> None:
    passage = passage_of(decoder, QualityConfig(context=64, stride=32))
    losses = token_losses(decoder, passage)
    found = compare(losses, losses, passage)
    assert found.loss_ratio == (0.0, 0.0, 0.0)
    assert found.quality == found.parent


def test_the_ratio_is_that_of_the_perplexities_and_tighter_than_theirs(decoder: Decoder) -> None:
    passage = passage_of(decoder, QualityConfig(context=64, stride=32))
    losses = token_losses(decoder, passage)
    noise = np.random.default_rng(0).normal(0.01, 0.01, len(losses))
    found = compare(losses + noise, losses, passage)
    ratio = found.quality.perplexity.value / found.parent.perplexity.value
    assert found.loss_ratio.value == pytest.approx(ratio - 1, abs=1e-12)
    assert found.loss_ratio.low > 0.0
    width = found.loss_ratio.high - found.loss_ratio.low
    alone = found.parent.perplexity
    assert width < 0.1 * (alone.high - alone.low) / alone.value


def test_paired_intervals_cover_the_true_ratio() -> None:
    random = np.random.default_rng(3)
    passage = Passage(tuple(range(600)), 0, 600, QualityConfig())

    def covers() -> bool:
        hard: NDArray[np.float64] = random.gamma(2.0, 2.0, 600)
        found = compare(hard + random.normal(0.02, 0.3, 600), hard, passage).loss_ratio
        return found.low <= math.exp(0.02) - 1 <= found.high

    assert 0.93 <= np.mean([covers() for _ in range(600)]) <= 0.98


@pytest.mark.parametrize("text", ["", "short", "x" * 64])
def test_a_text_too_short_for_an_interval_is_refused(decoder: Decoder, text: str) -> None:
    with pytest.raises(BadSettings, match=r"too few for an interval. Give a text of more than 64 tokens"):
        prepare(Corpus(text), ByteTokenizer(), decoder.config, QualityConfig())


def test_the_shortest_text_works_without_bos(decoder: Decoder) -> None:
    passage = prepare(Corpus("x" * 65), WithoutBos(), decoder.config, QualityConfig())
    assert quality(token_losses(decoder, passage), passage).num_tokens == passage.num_bytes == 64


def test_the_tokenizer_of_another_model_is_refused(decoder: Decoder) -> None:
    with pytest.raises(BadSettings, match="token 70000, the model knows 259"):
        prepare(Corpus(TEXT), WithStranger(), decoder.config, QualityConfig())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": 64, "stride": 64}, "stride 64 does not fit windows of 64 tokens. Use 1 to 63"),
        ({"stride": 0}, "stride 0"),
        ({"context": 1}, "context 1 is too small"),
        ({"max_tokens": 0}, "max_tokens 0"),
    ],
)
def test_windows_that_score_nothing_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        QualityConfig(**settings)


def test_max_tokens_takes_the_beginning(decoder: Decoder) -> None:
    config = QualityConfig(context=64, stride=32)
    short = passage_of(decoder, replace(config, max_tokens=70))
    assert short.tokens == passage_of(decoder, config).tokens[:70]


def test_text_files_and_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("one\ntwo é", encoding="utf-8")
    documents = ["first\nwith a line", "second\u2028separated"]
    rows = [json.dumps({"text": text, "more": 1}, ensure_ascii=False) for text in documents]
    lines.write_text("\n".join([*rows, "", ""]), encoding="utf-8")
    assert read_corpus(plain).text == "one\ntwo é"
    assert read_corpus(lines).text == "\n\n".join(documents)


@pytest.mark.parametrize("line", ["{", "[1]", '{"words": "x"}', '{"text": 3}', "7"])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(BadSettings, match=r"line 2 of .* is no JSON object with a text") as fault:
        read_corpus(path)
    assert "\n" not in str(fault.value)


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        read_corpus(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadSettings, match="cannot be read"):
        read_corpus(tmp_path / "latin.txt")
    with pytest.raises(BadSettings, match="cannot be read"):
        read_corpus(tmp_path)


def test_a_pair_is_scored_as_each_alone_and_compared_by_definition(decoder: Decoder) -> None:
    other = tiny_decoder(seed=9)
    passage = passage_of(decoder, QualityConfig(context=48, stride=20))
    found = pair(other, decoder, passage)
    np.testing.assert_allclose(found.losses, token_losses(other, passage), atol=2e-5)
    np.testing.assert_allclose(found.parent_losses, token_losses(decoder, passage), atol=2e-5)
    first = torch.tensor([256, *passage.tokens[:40]])
    ours, theirs = (
        one.logits(one(first, torch.arange(41), causal_attend(1, 41))).double().softmax(-1) for one in (other, decoder)
    )
    apart = (theirs * (theirs / ours).log()).sum(-1)
    np.testing.assert_allclose(found.divergences[:41], apart, rtol=1e-3)
    same = ours.argmax(-1) == theirs.argmax(-1)
    assert found.agreements[:41].tolist() == same.double().tolist()
    assert likeness(found, passage).kl.value == pytest.approx(found.divergences.mean())
    targets = torch.tensor(passage.tokens[:41])
    flipped = (ours.argmax(-1) == targets) ^ (theirs.argmax(-1) == targets)
    assert found.flips[:41].tolist() == flipped.double().tolist()
    assert found.flips.any(), "the two differ somewhere"


def test_a_model_is_like_itself(decoder: Decoder) -> None:
    passage = passage_of(decoder, QualityConfig(context=48, stride=20))
    seen: list[tuple[int, int]] = []
    found = pair(decoder, decoder, passage, progress=lambda done, total: seen.append((done, total)))
    assert likeness(found, passage).kl == (0.0, 0.0, 0.0)
    assert likeness(found, passage).top1_agreement == (1.0, 1.0, 1.0)
    assert likeness(found, passage).flip_rate == (0.0, 0.0, 0.0)
    assert seen[-1] == (len(passage.tokens), len(passage.tokens))


def test_documents_change_intervals_only(decoder: Decoder) -> None:
    texts = [f"Story {i}: {'the cat sat. ' * (i % 3 + 1)}" for i in range(12)]
    starts = tuple(len("".join(texts[:i])) for i in range(12))
    config = QualityConfig(context=64, stride=32)
    one, many = (prepare(Corpus("".join(texts), s), ByteTokenizer(), decoder.config, config) for s in ((0,), starts))
    losses = token_losses(decoder, many)
    np.testing.assert_array_equal(losses, token_losses(decoder, one))
    assert quality(losses, many).perplexity.value == quality(losses, one).perplexity.value
    assert quality(losses, many).interval == "bootstrap over 12 documents"
    assert quality(losses, one).interval == "batch means"
    assert quality(losses, many).perplexity != quality(losses, one).perplexity


def test_few_documents_fall_back_on_batch_means(decoder: Decoder) -> None:
    passage = prepare(Corpus(TEXT, (0, 50, 100)), ByteTokenizer(), decoder.config, QualityConfig())
    assert (passage.num_documents, passage.interval) == (3, "batch means")
