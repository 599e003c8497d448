"""The model cards: measured values only."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from burnish.models.decoder import Decoder
from scripts.builtin.compare import BASELINE_ORDER, Figures
from scripts.builtin.corpus import HELD_OUT_BOOKS, HELD_OUT_SHARE, SHINGLE_WORDS, SOURCES, Corpus
from scripts.builtin.evaluate import PerSource, Sampling, sample
from scripts.builtin.tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER, end_tokens
from scripts.builtin.training import Plan

PROMPTS = (
    "Once upon a time, there was a little fox",
    "The old King had three sons, and",
    '"Where have you been?" asked the',
    f"{USER}Tell me a story about a bear.{END_OF_TURN}{ASSISTANT}",
    f"{USER}Tell me a short story about a little girl and a boat.{END_OF_TURN}{ASSISTANT}",
    f"{USER}Continue this story: The wizard opened the door and saw a dragon asleep.{END_OF_TURN}{ASSISTANT}",
)
_LOG_ROWS = 13
_DATA = {
    "books": (
        "public-domain stories",
        "67 of 70 books from Standard Ebooks and GITenberg (Project Gutenberg texts); public domain in the United "
        "States, contributors' work CC0 1.0",
    ),
    "tinystories": ("TinyStories", "head of the training split (Eldan & Li 2023); CDLA-Sharing-1.0"),
    "wikipedia": ("Wikipedia excerpt", "articles of English Wikipedia; CC BY-SA"),
    "shakespeare": ("TinyShakespeare", "40,000 lines of plays; public domain"),
}
_HEADER = """---
language: en
license: apache-2.0
pipeline_tag: text-generation
tags: [llama, tiny, stories]
---
"""
_LIMITS = """## Intended use and limits

For trying software: serving, compression, decoding, tests, teaching. It writes simple prose or the
manner of old fairy tales and answers "Tell me a story about ..." in a chat. Its sentences are mostly well formed, its
plots are not: it loses its thread within a few sentences, repeats itself and mixes up who is who. It knows no facts,
does no sums and follows no other instructions; what it says about the world is invented.

Most of the books are from before 1930 and hold the attitudes of their time, on class, on women, on other peoples.
Passages with slurs were filtered out of the source texts by word lists, coarsely; old attitudes remain, and the model
can repeat them. Nothing was done to make its words safe. Look at them before showing them to anybody.
"""


class Trained(NamedTuple):
    """A model, how it was trained and what the log says of its run."""

    name: str
    model: Decoder
    plan: Plan
    tokenizer: Tokenizer
    folder: Path

    @property
    def notes(self) -> str:
        """What the keeper of the run wrote down about it in ``NAME.notes.md``, if anything."""
        path = self.folder / f"{self.name}.notes.md"
        return path.read_text(encoding="utf-8") + "\n" if path.exists() else ""

    @property
    def lines(self) -> list[dict[str, float]]:
        """Log lines of this model, oldest first."""
        lines = (json.loads(line) for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["model"] == self.name]


def stories_card(trained: Trained, corpus: Corpus, figures: Sequence[Figures]) -> str:
    """The card of the story model."""
    return "\n".join(
        (
            _HEADER,
            "# burnish stories\n",
            f"A small language model for stories, trained from nothing by this project with "
            f"`scripts/train_builtin.py`: {_shape(trained.model)}\n",
            _chat_section(),
            _data_section(corpus),
            _training_section(trained),
            _baseline_section(figures),
            _samples_section(trained),
            _LIMITS,
        )
    )


def draft_card(trained: Trained, figures: Sequence[Figures], agreement: PerSource) -> str:
    """The card of the draft model."""
    rows = ["| text | tokens | draft, nats/token | agreement |", "| --- | ---: | ---: | ---: |"]
    for one, share in zip(figures, agreement, strict=False):
        rows.append(f"| {_title(one.source)} | {one.tokens:,} | {one.model:.3f} | {share:.1%} |")
    table = "\n".join(rows)
    return "\n".join(
        (
            _HEADER,
            "# burnish stories, draft\n",
            f"The draft for speculative decoding with `burnish stories`, same tokenizer: {_shape(trained.model)}"
            " Trained on the same texts (see the card of the story model for data, licences and limits), in the last"
            f" {trained.plan.taught_share:.0%} of the steps half towards the story model's distribution"
            " (distillation; the training loss of those steps is that mixture).\n",
            _training_section(trained),
            f"## Held-out text\n\nLoss on all held-out tokens; agreement: how often the most likely next token is the"
            f" story model's, on a fixed sample of held-out windows.\n\n{table}\n",
            _LIMITS,
        )
    )


def _shape(model: Decoder) -> str:
    c = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"Llama architecture, {count:,} parameters, {c.num_layers} layers, width {c.hidden_size}, {c.num_heads} heads"
        f" of {c.head_dim} ({c.num_kv_heads} for keys and values), inner width {c.inner_size}, tied embeddings, context"
        f" {c.max_positions} tokens, byte-level BPE of {c.vocab_size:,} pieces, weights in bfloat16."
    )


def _chat_section() -> str:
    return (
        f"## Format\n\nA text begins with `{END_OF_TEXT}` (the tokenizer adds it) and ends with it. A chat is "
        f"`{END_OF_TEXT}{USER}question{END_OF_TURN}{ASSISTANT}answer{END_OF_TURN}`, with `<|system|>` before the first"
        " question if wanted; the chat template in tokenizer_config.json writes it.\n"
    )


def _data_section(corpus: Corpus) -> str:
    rows = ["| text | trained on, bytes | held out, bytes | what, licence |", "| --- | ---: | ---: | --- |"]
    for source in SOURCES:
        train, held = (
            sum(len(d.text.encode()) for d in part if d.source == source) for part in (corpus.train, corpus.held_out)
        )
        rows.append(f"| {_DATA[source][0]} | {train:,} | {held:,} | {_DATA[source][1]} |")
    books = ", ".join(f"`{book}`" for book in HELD_OUT_BOOKS)
    return (
        "## Data\n\n" + "\n".join(rows) + f"\n\nHeld out: the books {books}, and the last {HELD_OUT_SHARE:.0%} of the "
        f"stories, articles and scenes. Training documents that share a run of {SHINGLE_WORDS} words with held-out text"
        " were dropped, and so were articles that share one with WikiText-2, which was never trained on. About one"
        " seventh of the training tokens are conversations made mechanically from the training texts. The weights come"
        " under the project's licence, the texts keep their own; no legal review was made.\n"
    )


def _training_section(trained: Trained) -> str:
    lines = trained.lines
    kept = {round(i * (len(lines) - 1) / (_LOG_ROWS - 1)) for i in range(_LOG_ROWS)}
    head = ["step", "tokens seen", "train", *(_title(source) for source in SOURCES)]
    rows = [f"| {' | '.join(head)} |", "| ---: " * len(head) + "|"]
    for number in sorted(kept):
        line = lines[number]
        losses = " | ".join(f"{line[key]:.3f}" for key in ("train", *SOURCES))
        rows.append(f"| {line['step']} | {line['tokens']:,} | {losses} |")
    return (
        f"## Training\n\n{_recipe(trained.plan)}\n\n{trained.notes}Mean training loss since the last look and held-out"
        " losses on a fixed sample of windows, nats per token:\n\n" + "\n".join(rows) + "\n"
    )


def _recipe(plan: Plan) -> str:
    return (
        f"{plan.steps:,} steps of 8,192 tokens on a CPU, in sequences of {plan.short} tokens, in the last"
        f" {plan.long_share:.0%} of the steps of 1,024; Muon for the matrices of the blocks (rate {plan.matrix_rate},"
        f" weight decay {plan.weight_decay}), AdamW for embeddings and norms (rate {plan.vector_rate}); the rates rise"
        f" over {plan.warmup} steps, fall by 1/{plan.slope:,} per step from step {plan.plateau} on and to zero over the"
        f" last {plan.cooldown}; mixed precision; seed {plan.seed}."
        " The weights shipped are the best of those looked at, by the mean of the first two held-out losses."
    )


def _baseline_section(figures: Sequence[Figures]) -> str:
    rows = [
        "| held-out text | documents | tokens | model, nats/token | 5-gram | margin (95 % interval) "
        "| model, bits/byte | 5-gram |",
        "| --- " + "| ---: " * 7 + "|",
    ]
    for f in figures:
        rows.append(
            f"| {_title(f.source)} | {f.documents} | {f.tokens:,} | {f.model:.3f} | {f.baseline:.3f} | "
            f"{f.margin:.3f} ({f.margin_low:.3f} to {f.margin_high:.3f}) | {f.model_bits:.3f} | {f.baseline_bits:.3f} |"
        )
    better = [_verdict(f) for f in figures if f.margin_low > 0]
    even = [_title(f.source) for f in figures if f.margin_low <= 0]
    return (
        f"## Against a {BASELINE_ORDER}-gram model\n\nThe baseline is an interpolated modified Kneser-Ney model of"
        f" order {BASELINE_ORDER} over the same tokens, counted on every training document once. Both models predict"
        " the same tokens of whole documents; the network sees at least 512 tokens of context where there are so many."
        " Intervals: bootstrap over documents (a document is a tale, chapter, story, article or scene). Weights as"
        " shipped, computed in float32.\n\n"
        + "\n".join(rows)
        + f"\n\nBetter than the baseline: {', '.join(better) or 'nowhere'}. Not clearly better:"
        f" {', '.join(even) or 'nowhere'}.\n"
    )


def _verdict(figures: Figures) -> str:
    fewer = 1 - math.exp(-figures.margin)
    return f"{_title(figures.source)} by {figures.margin:.2f} nats per token ({fewer:.0%} lower perplexity)"


def _samples_section(trained: Trained) -> str:
    stops = end_tokens()
    sampling = Sampling()
    parts = []
    for prompt in PROMPTS:
        text = sample(trained.model, trained.tokenizer, prompt, sampling, stops)
        parts.append(f"```text\n{prompt}[...]{text}\n```\n")
    return (
        f"## Samples\n\nFirst tries with seed {sampling.seed}, temperature {sampling.temperature}, top-p"
        f" {sampling.top_p}, at most {sampling.tokens} tokens; the prompt ends at `[...]`.\n\n" + "\n".join(parts)
    )


def _title(source: str) -> str:
    titles: Mapping[str, str] = {name: title for name, (title, _) in _DATA.items()}
    return titles.get(source, "all together")
