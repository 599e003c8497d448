"""The parts of the training script of the built-in models, on a made-up corpus."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from burnish.models.decoder import DecoderConfig
from burnish.models.layers.attention import AttentionRule, causal_attend
from scripts.builtin.card import Trained, draft_card, stories_card
from scripts.builtin.compare import closed, compare, document_losses
from scripts.builtin.corpus import HELD_OUT_BOOKS, Corpus, read_corpus, shingles
from scripts.builtin.evaluate import PerSource, Sampling, exact_logits, sample
from scripts.builtin.install import install
from scripts.builtin.muon import Muon
from scripts.builtin.ngram import KneserNey
from scripts.builtin.stream import Stream
from scripts.builtin.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, Turn, chat_text, end_tokens, train_tokenizer
from scripts.builtin.training import Plan, Trainer, blocked_attend

TINY = DecoderConfig(
    vocab_size=400,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    inner_size=64,
    max_positions=64,
    tied_embeddings=True,
)


def prose(seed: int, sentences: int) -> str:
    """Sentences of made-up words, about a fox now and then, with a new paragraph every fifth."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abdeilmnorstu", k=rng.randint(2, 8))) for _ in range(300)]
    made = []
    for number in range(sentences):
        made.append(" ".join(["The fox said", *rng.choices(words, k=9)]).capitalize() + ".")
        made.append("\n\n" if number % 5 == 4 else " ")
    return "".join(made).strip()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in ("public-domain-stories", "tinystories", "wikipedia-excerpt", "tinyshakespeare", "wikitext-2"):
        (folder / name).mkdir()
    books = (*HELD_OUT_BOOKS, "some-author_some-tales", "another-author_a-novel")
    for seed, book in enumerate(books):
        body = f"The First Tale\n\n{prose(seed, 40)}\n\nThe Second Tale\n\n{prose(seed + 50, 30)}\n"
        (folder / f"public-domain-stories/{book}.txt").write_text(body)
    stories = [prose(100 + n, 8) for n in range(40)]
    stories[3] = stories[39]  # a duplicate
    stories[4] += " " + stories[38]  # quotes a held-out story
    (folder / "tinystories/part1.txt").write_text("\n<|endoftext|>\n".join(stories))
    articles = [prose(200 + n, 10) for n in range(20)]
    mark = '<doc id="{0}" url="https://example.org/{0}" title="Title {0}">\nTitle {0}\n\n{1}\n\n</doc>\n'
    (folder / "wikipedia-excerpt/wiki.utf8").write_text("".join(map(mark.format, range(20), articles)))
    (folder / "wikitext-2/test.txt").write_text(articles[7])
    (folder / "tinyshakespeare/input.txt").write_text("\n\n".join(f"FOOL:\n{prose(300 + n, 12)}" for n in range(60)))
    return folder


@pytest.fixture(scope="module")
def corpus(texts: Path) -> Corpus:
    return read_corpus(texts)


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return train_tokenizer((d.text for d in corpus.train), TINY.vocab_size)


@pytest.fixture
def stream(corpus: Corpus, tokenizer: Tokenizer) -> Stream:
    return Stream(corpus.train, tokenizer, context=64, windows=2, seed=5)


@pytest.mark.parametrize(
    "text", ["", "Once upon a time", "  two\n\n\tspaces ", "Ærøskøbing \u2014 \u4f60\u597d \U0001f98a", "\x00\r\n"]
)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text).ids
    assert tokens[0] == tokenizer.token_to_id(END_OF_TEXT)
    assert tokenizer.decode(tokens) == text


def test_chat_template_writes_what_the_model_was_trained_on() -> None:
    jinja2 = pytest.importorskip("jinja2")
    turns = [Turn("system", "Be kind."), Turn("user", " A story? "), Turn("assistant", "Once."), Turn("user", "More")]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    template = jinja2.Template(CHAT_TEMPLATE)
    written = template.render(messages=messages, bos_token=END_OF_TEXT, add_generation_prompt=True)
    assert written == f"{END_OF_TEXT}{chat_text(turns)}<|assistant|>"


def test_nothing_held_out_is_trained_on(corpus: Corpus, texts: Path) -> None:
    hidden = shingles([d.text for d in corpus.held_out] + [(texts / "wikitext-2/test.txt").read_text()])
    assert hidden.isdisjoint(shingles(d.text for d in corpus.train))
    assert {d.name.split("/")[0] for d in corpus.held_out if d.source == "books"} == set(HELD_OUT_BOOKS)
    assert {d.source for d in corpus.held_out} == {"books", "tinystories", "wikipedia", "shakespeare"}
    assert len({d.name for d in corpus.train + corpus.held_out}) == len(corpus.train) + len(corpus.held_out)


def test_books_are_cut_at_titles(corpus: Corpus) -> None:
    books = [d for d in corpus.train if d.source == "books"]
    assert len(books) == 4
    assert {d.text.split("\n")[0] for d in books} == {"The First Tale", "The Second Tale"}


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    rng = np.random.default_rng(0)
    documents = [np.append(0, rng.zipf(1.5, 60).clip(max=19)) for _ in range(20)]
    model = KneserNey(documents, vocabulary=20, order=order)
    seen, unseen = documents[0][10 : 10 + order - 1], np.full(order - 1, 19)
    for context in (seen, unseen, np.zeros(order - 1, np.int64)):
        prefix = sum(int(token) * 20 ** (order - 1 - i) for i, token in enumerate(context))
        probabilities = model.score(prefix + np.arange(20))
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)
        assert probabilities.min() > 0


def test_ngram_learns_what_follows() -> None:
    model = KneserNey([np.array([0, 1, 2, 3] * 50)], vocabulary=8, order=5)
    assert model.probabilities(np.array([0, 1, 2, 3, 0, 1, 2]))[4:].min() > 0.8


def test_ngrams_must_fit_in_64_bits() -> None:
    with pytest.raises(ValueError, match="lower order"):
        KneserNey([np.array([0, 1])], vocabulary=8192, order=5)


def test_stream_is_a_function_of_seed_and_step(corpus: Corpus, tokenizer: Tokenizer, stream: Stream) -> None:
    late = stream.epoch_steps + 2  # in the second epoch
    there = [stream.batch(step) for step in (0, late, 1)]
    again = Stream(corpus.train, tokenizer, context=64, windows=2, seed=5)
    back = [again.batch(step) for step in (late, 0, 1)]
    assert there[0].shape == (2, 65)
    for one, other in ((there[0], back[1]), (there[1], back[0]), (there[2], back[2])):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(there[0], there[2])


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_muon_is_that_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.01, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.05 * theirs.norm()  # bfloat16


def test_blocked_attention_is_attention() -> None:
    rule = AttentionRule(layer=0, scale=0.25, window=None, softcap=None)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2 * 300, heads, 16) for heads in (4, 2, 2))
    difference = blocked_attend(2, 300)(rule, q, k, v) - causal_attend(2, 300)(rule, q, k, v)
    assert difference.abs().max() < 0.03  # bfloat16


def test_resumed_run_ends_in_the_same_weights(stream: Stream, tmp_path: Path) -> None:
    plan = Plan(steps=6, short=32, warmup=2)
    straight = Trainer(TINY, plan, stream)
    losses = [straight.take_step() for _ in range(6)]
    first = Trainer(TINY, plan, stream)
    for _ in range(3):
        first.take_step()
    first.save(tmp_path / "last.pt")
    second = Trainer(TINY, plan, stream)
    second.load(tmp_path / "last.pt")
    assert [second.take_step() for _ in range(3)] == losses[3:]
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_draft_learns_from_the_teacher(stream: Stream) -> None:
    plan = Plan(steps=30, short=32, warmup=2, taught_share=1)
    teacher = Trainer(TINY, plan, stream).model
    student = Trainer(TINY, plan, stream, teacher)
    losses = [student.take_step() for _ in range(30)]
    assert losses[-1] < losses[0]


def test_rates_rise_hold_and_fall_to_nothing() -> None:
    plan = Plan(steps=100, warmup=10, plateau=50, slope=100, cooldown=20, long_share=0.25)
    rates = [plan.rate(step) for step in range(101)]
    assert rates[0] == 0.1
    assert rates[9:51] == [1.0] * 42
    assert rates[70] == pytest.approx(0.8)
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert [plan.length(step, 1024) for step in (0, 74, 75, 99)] == [512, 512, 1024, 1024]


def test_windows_of_a_document_see_its_beginning(corpus: Corpus, tokenizer: Tokenizer, stream: Stream) -> None:
    model = Trainer(TINY, Plan(steps=1), stream).model
    document = closed(corpus.held_out, tokenizer)[0]
    (losses,) = document_losses(model, [document])
    assert len(losses) == len(document) - 1 > TINY.max_positions
    window = torch.from_numpy(document[:65])[None]
    with torch.no_grad():
        logits = exact_logits(model, window[:, :-1])[0]
    wanted = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
    np.testing.assert_allclose(losses[:64], wanted, rtol=1e-4)
    assert losses.min() > 0


def test_comparison_adds_up(corpus: Corpus, tokenizer: Tokenizer, stream: Stream) -> None:
    model = Trainer(TINY, Plan(steps=1), stream).model
    baseline = KneserNey(closed(corpus.train, tokenizer), vocabulary=TINY.vocab_size, order=3)
    *parts, everything = compare(model, baseline, corpus.held_out, tokenizer)
    assert sum(part.tokens for part in parts) == everything.tokens
    assert sum(part.model * part.tokens for part in parts) == pytest.approx(everything.model * everything.tokens)
    assert everything.margin_low <= everything.margin <= everything.margin_high


def test_installed_model_is_complete(stream: Stream, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = Trainer(TINY, Plan(steps=1), stream).model
    install(model, tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert sum(weight.numel() for weight in weights.values()) == sum(p.numel() for p in model.parameters())
    assert "model.layers.1.post_attention_layernorm.weight" in weights
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == end_tokens()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == END_OF_TEXT


def test_sampling_is_seeded(stream: Stream, tokenizer: Tokenizer) -> None:
    model = Trainer(TINY, Plan(steps=1), stream).model
    texts = [sample(model, tokenizer, "The fox", Sampling(tokens=8, seed=seed), ()) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_cards_hold_what_was_measured(corpus: Corpus, stream: Stream, tokenizer: Tokenizer, tmp_path: Path) -> None:
    plan = Plan(steps=1)
    model = Trainer(TINY, plan, stream).model
    losses = PerSource(books=5.125, tinystories=4.25, wikipedia=6.5, shakespeare=5.75)._asdict()
    line = {"model": "stories", "step": 1, "tokens": 128, "train": 7.125} | losses
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "stories.notes.md").write_text("Stopped once.\n")
    trained = Trained("stories", model, plan, tokenizer, tmp_path)
    baseline = KneserNey(closed(corpus.train, tokenizer), vocabulary=TINY.vocab_size, order=2)
    figures = compare(model, baseline, corpus.held_out, tokenizer)
    card = stories_card(trained, corpus, figures)
    assert "| 1 | 128 | 7.125 | 5.125 | 4.250 | 6.500 | 5.750 |" in card
    assert f"{figures[-1].margin:.3f}" in card
    assert all(book in card for book in HELD_OUT_BOOKS)
    assert "Stopped once." in card
    assert "12.5%" in draft_card(trained, figures, PerSource(0.125, 0.25, 0.0, 1.0))
