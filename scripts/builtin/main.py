"""The command: both training runs, from the corpus to the installed models."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer

from burnish.models.decoder import Decoder, DecoderConfig
from scripts.builtin.card import Trained, draft_card, stories_card
from scripts.builtin.compare import compare, fit_baseline
from scripts.builtin.corpus import Corpus, read_corpus
from scripts.builtin.evaluate import Monitor
from scripts.builtin.install import install, round_weights
from scripts.builtin.run import Run, load_best
from scripts.builtin.stream import Stream
from scripts.builtin.tokenizer import load_or_train
from scripts.builtin.training import Plan, Trainer, compile_layers

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ("stories", "draft", "install")
VOCABULARY, CONTEXT, WINDOWS = 4096, 1024, 8

STORIES = DecoderConfig(
    vocab_size=VOCABULARY,
    hidden_size=256,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    inner_size=768,
    max_positions=CONTEXT,
    tied_embeddings=True,
)
DRAFT = DecoderConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    inner_size=384,
    max_positions=CONTEXT,
    tied_embeddings=True,
)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What the stages share."""

    folder: Path
    corpus: Corpus
    tokenizer: Tokenizer
    plans: Mapping[str, Plan]
    compile: bool

    @cached_property
    def stream(self) -> Stream:
        """The order of the training tokens, the same for both runs."""
        seed = self.plans["stories"].seed
        return Stream(self.corpus.train, self.tokenizer, context=CONTEXT, windows=WINDOWS, seed=seed)

    @cached_property
    def monitor(self) -> Monitor:
        """The held-out sample both runs are watched on."""
        return Monitor(self.corpus.held_out, self.tokenizer, CONTEXT)

    def trained(self, name: str, model: Decoder) -> Trained:
        """What the card of a model needs to know."""
        return Trained(name, model, self.plans[name], self.tokenizer, self.folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Go through the stages asked for."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    shop = _open_workshop(options)
    if "stories" in options.stages:
        train("stories", STORIES, shop)
    if "draft" in options.stages:
        train("draft", DRAFT, shop, load_best(shop.folder, "stories", STORIES))
    if "install" in options.stages:
        install_all(shop, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the built-in story model and its draft, and install them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--texts", type=Path, default=REPOSITORY.parent / "shared/data/text", help="corpus folder")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build/builtin", help="checkpoints and logs")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "src/burnish/builtin", help="installed models")
    parser.add_argument("--steps", type=int, default=1450, help="steps of the story model, 8,192 tokens each")
    parser.add_argument("--draft-steps", type=int, default=600, help="steps of the draft model")
    parser.add_argument("--seed", type=int, default=1, help="of weights, order and conversations")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="fuse operations; needs a C++ compiler")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="what to do, in this order")
    return parser.parse_args(arguments)


def _open_workshop(options: argparse.Namespace) -> Workshop:
    corpus = read_corpus(options.texts)
    return Workshop(
        folder=options.work,
        corpus=corpus,
        tokenizer=load_or_train(options.work / "tokenizer.json", (d.text for d in corpus.train), VOCABULARY),
        plans={
            "stories": Plan(steps=options.steps, seed=options.seed),
            "draft": Plan(steps=options.draft_steps, seed=options.seed),
        },
        compile=options.compile,
    )


def train(name: str, config: DecoderConfig, shop: Workshop, teacher: Decoder | None = None) -> None:
    """Take a run to its end, from its last checkpoint if there is one."""
    trainer = Trainer(config, shop.plans[name], shop.stream, teacher)
    run = Run(name, trainer, shop.monitor, shop.folder)
    if shop.compile:
        for model in filter(None, (trainer.model, teacher)):
            compile_layers(model)
    run.finish()


def install_all(shop: Workshop, output: Path) -> None:
    """Measure both models as they ship and write them with their cards."""
    model = round_weights(load_best(shop.folder, "stories", STORIES))
    draft = round_weights(load_best(shop.folder, "draft", DRAFT))
    install(model, shop.tokenizer, output / "stories")
    install(draft, shop.tokenizer, output / "draft")
    baseline = fit_baseline(shop.corpus.train, shop.tokenizer)
    held_out = shop.corpus.held_out
    figures = compare(model, baseline, held_out, shop.tokenizer)
    card = stories_card(shop.trained("stories", model), shop.corpus, figures)
    (output / "stories/README.md").write_text(card, encoding="utf-8")
    figures = compare(draft, baseline, held_out, shop.tokenizer)
    card = draft_card(shop.trained("draft", draft), figures, shop.monitor.agreement(model, draft))
    (output / "draft/README.md").write_text(card, encoding="utf-8")
