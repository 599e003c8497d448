"""Distillation: a student learns to give a teacher's distributions (Hinton et al. 2015), not only the text's words.

Losses are means per token, summed over the vocabulary. Every step is a pure function of the seed and its number, so a
run that was stopped and goes on from its checkpoint ends with the same weights.

Shapes: B sequences, T tokens of a sequence, N tokens of all, V vocabulary, E hidden width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.core.errors import BadSettings
from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.layers.attention import causal_attend

Progress = Callable[[int, int], None]
"""(steps done, steps in all)"""
Watch = Callable[[str, float, int], None]
"""(what was measured, its value, after how many steps)"""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How a student is taught. The shares of the losses need not sum to one."""

    steps: int = 500
    batch: int = 8  # sequences of a step
    length: int = 256  # tokens of a sequence
    rate: float = 1e-3  # of AdamW at its highest; rises over a twentieth of the steps and falls as a cosine
    weight_decay: float = 0.0
    logit_share: float = 1.0  # of the divergence from the teacher's distributions
    temperature: float = 1.0  # of both distributions
    skew: float = 0.0  # 0: KL(teacher | student), 1: KL(student | teacher), between: generalised JSD
    data_share: float = 0.0  # of the cross entropy with the text
    hidden_share: float = 0.0  # of 1 - cosine between the last hidden rows, through a learned projection
    own_share: float = 0.0  # of the steps on text that the student wrote itself (on-policy)
    taught_share: float = 0.0  # of the steps on text that the teacher wrote (sequence level)
    prompt: int = 16  # tokens of the data that a written text begins with
    seed: int = 0
    look_every: int = 100  # steps between two looks at the held-out text

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a value no run can use."""
        for name in ("steps", "batch", "length", "look_every", "prompt"):
            if getattr(self, name) < 1:
                raise BadSettings(f"{name} {getattr(self, name)} is too small", remedy="Use 1 or more")
        for name in ("logit_share", "data_share", "hidden_share", "weight_decay"):
            if getattr(self, name) < 0:
                raise BadSettings(f"{name} {getattr(self, name)} is negative", remedy="Use 0 or more")
        for name in ("skew", "own_share", "taught_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadSettings(f"{name} {getattr(self, name)} is no share", remedy="Use 0 to 1")
        if self.own_share + self.taught_share > 1:
            raise BadSettings(
                f"own_share and taught_share make {self.own_share + self.taught_share}", remedy="Use <= 1"
            )
        if not self.rate > 0 or not self.temperature > 0:
            raise BadSettings("rate and temperature must be above 0", remedy="Correct them")
        if self.logit_share == self.data_share == self.hidden_share == 0:
            raise BadSettings("all shares of the loss are 0", remedy="Give one of them")


class Look(NamedTuple):
    """How the student did on held-out text."""

    step: int
    loss: float  # cross entropy, nats per token
    divergence: float  # KL(teacher | student), nats per token


class Text(NamedTuple):
    """Tokens to learn from, and held-out ones to look at."""

    tokens: Tensor  # (N,) int64
    held_out: Tensor  # (N',) int64


def split(tokens: Tensor, length: int, *, share: float = 0.05) -> Text:
    """Hold out the last part of tokens (N,). Raises ``BadSettings`` when there are too few to learn from."""
    held_out = max(length + 1, int(len(tokens) * share))
    if len(tokens) < 4 * held_out:
        raise BadSettings(
            f"{len(tokens)} tokens are too few to learn from",
            remedy=f"Give {4 * (length + 1)} or more, or shorter sequences",
        )
    return Text(tokens[:-held_out], tokens[-held_out:])


def training_bytes(decoder: nn.Module, config: DistillConfig) -> int:
    """What training a student of that size takes: weights, gradients, two moments, and what a step keeps."""
    assert isinstance(decoder, Decoder)
    weights = sum(parameter.numel() for parameter in decoder.parameters())
    return 4 * (4 * weights + config.batch * config.length * floats_of_row(decoder.config))


def floats_of_row(shape: DecoderConfig) -> int:
    """Numbers that a token leaves behind, at most, on its way to a loss and back."""
    return 8 * shape.vocab_size + shape.num_layers * (12 * shape.hidden_size + 6 * shape.inner_size)


def divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, skew: float = 0.0) -> Tensor:
    """Of logits (N, V) -> mean per token, times the temperature squared.

    ``skew`` 0 is KL(teacher | student), 1 is KL(student | teacher); between them the generalised Jensen-Shannon
    divergence of GKD (Agarwal et al. 2023), whose mixture holds ``skew`` of the teacher, scaled to meet both ends.
    """
    ours, theirs = (logits.float().div(temperature).log_softmax(-1) for logits in (student, teacher))
    if skew == 0:
        apart = _kl(theirs, ours)
    elif skew == 1:
        apart = _kl(ours, theirs)
    else:
        mixture = torch.logaddexp(theirs + math.log(skew), ours + math.log(1 - skew))
        apart = (skew * _kl(theirs, mixture) + (1 - skew) * _kl(ours, mixture)) / (skew * (1 - skew))
    return apart * temperature**2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p | q) of log-probabilities (N, V), mean per row."""
    return (p.exp() * (p - q)).sum(-1).mean()


class Distillation:
    """A student, its teacher, the optimizer and the steps taken."""

    def __init__(
        self, student: nn.Module, decoder: Decoder, teacher: Decoder, text: Text, config: DistillConfig
    ) -> None:
        """``student``: whose parameters learn, ``decoder`` itself or what holds it and more."""
        self.config, self.step, self.looks = config, 0, list[Look]()
        self._decoder, self._teacher, self._text = decoder, teacher, text
        self._projection = self._make_projection() if config.hidden_share else None
        learning = [p for p in student.parameters() if p.requires_grad]
        if self._projection is not None:
            learning.append(self._projection)
        if not learning:
            raise BadSettings("the student has nothing to learn with", remedy="Give one with float weights")
        self._learning = learning
        self._optimizer = torch.optim.AdamW(learning, lr=config.rate, weight_decay=config.weight_decay)

    def run(
        self, *, progress: Progress | None = None, save_to: Path | None = None, watch: Watch | None = None
    ) -> Sequence[Look]:
        """All steps that are left; a look before the first, every so many and after the last.

        ``watch`` is told the loss of every step and what every look finds. With ``save_to``, the state is saved at
        every look, and taken from there when it exists.
        """
        if save_to is not None and save_to.exists():
            self.load(save_to)
        if not self.looks:
            self._look(watch)
        while self.step < self.config.steps:
            loss = self.take_step()
            if watch is not None:
                watch("loss", loss, self.step)
            if self.step % self.config.look_every == 0 or self.step == self.config.steps:
                self._look(watch)
                if save_to is not None:
                    self.save(save_to)
            if progress is not None:
                progress(self.step, self.config.steps)
        return self.looks

    def _look(self, watch: Watch | None) -> None:
        look = self.look()
        self.looks.append(look)
        if watch is not None:
            watch("held_out_loss", look.loss, look.step)
            watch("held_out_divergence", look.divergence, look.step)

    def take_step(self) -> float:
        """One step; returns its loss."""
        tokens = self._tokens()
        loss = self._loss(tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._learning, 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate * self._factor()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def look(self) -> Look:
        """How the student does on the held-out text now."""
        length = self.config.length
        pieces = self._text.held_out[: len(self._text.held_out) // (length + 1) * (length + 1)].view(-1, length + 1)
        losses, apart = [], []
        for piece in torch.split(pieces, self.config.batch):
            ours, theirs = (model.logits(_hidden(model, piece[:, :-1])) for model in (self._decoder, self._teacher))
            losses.append(functional.cross_entropy(ours, piece[:, 1:].flatten()) * len(piece))
            apart.append(divergence(ours, theirs) * len(piece))
        return Look(self.step, float(sum(losses)) / len(pieces), float(sum(apart)) / len(pieces))

    def save(self, path: Path) -> None:
        """Write everything a later ``load`` needs; a crash leaves the previous file whole.

        Raises ``BadSettings`` when it cannot be written.
        """
        state = {
            "step": self.step,
            "looks": [tuple(look) for look in self.looks],
            "learning": [parameter.detach() for parameter in self._learning],
            "optimizer": self._optimizer.state_dict(),
        }
        aside = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:  # given a path instead, torch would not say what the system said
                torch.save(state, file)
            aside.replace(path)
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            fault = error if isinstance(error, OSError) else error.__context__
            reason = getattr(fault, "strerror", None) or str(error).partition("\n")[0]
            raise BadSettings(
                f"{str(path)!r} cannot be written: {reason}", remedy="Make room, then start again"
            ) from None

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on where ``save`` was called."""
        state = torch.load(path, weights_only=True)
        self.step, self.looks = state["step"], [Look(*look) for look in state["looks"]]
        for parameter, saved in zip(self._learning, state["learning"], strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    def _make_projection(self) -> nn.Parameter:
        """From the student's hidden rows to the teacher's, the identity as far as it goes."""
        return nn.Parameter(torch.eye(self._teacher.config.hidden_size, self._decoder.config.hidden_size))

    def _factor(self) -> float:
        """Of the learning rate, now."""
        config, warm = self.config, max(1, self.config.steps // 20)
        return min(1.0, (self.step + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * self.step / config.steps))

    def _tokens(self) -> Tensor:
        """The sequences of this step (B, T + 1)."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        starts = torch.randint(len(self._text.tokens) - config.length, (config.batch, 1), generator=generator)
        tokens = self._text.tokens[starts + torch.arange(config.length + 1)]
        draw = float(torch.rand((), generator=generator))
        if draw < config.own_share:
            return write(self._decoder, tokens[:, : config.prompt], config.length + 1, generator)
        if draw < config.own_share + config.taught_share:
            return write(self._teacher, tokens[:, : config.prompt], config.length + 1, generator)
        return tokens

    def _loss(self, tokens: Tensor) -> Tensor:
        config, inputs = self.config, tokens[:, :-1]
        hidden = _hidden(self._decoder, inputs)
        logits = self._decoder.logits(hidden)
        total = torch.zeros(())
        if config.logit_share or config.hidden_share:
            with torch.no_grad():
                wanted = _hidden(self._teacher, inputs)
            if config.logit_share:
                theirs = self._teacher.logits(wanted)
                apart = divergence(logits, theirs, temperature=config.temperature, skew=config.skew)
                total = total + config.logit_share * apart
            if self._projection is not None:
                alike = functional.cosine_similarity(hidden @ self._projection.T, wanted, dim=-1)
                total = total + config.hidden_share * (1 - alike).mean()
        if config.data_share:
            total = total + config.data_share * functional.cross_entropy(logits, tokens[:, 1:].flatten())
        return total


def _hidden(decoder: Decoder, tokens: Tensor) -> Tensor:
    """tokens (B, T) -> hidden rows (B * T, E)."""
    batch, length = tokens.shape
    hidden: Tensor = decoder(tokens.flatten(), torch.arange(length).repeat(batch), causal_attend(batch, length))
    return hidden


@torch.no_grad()
def write(decoder: Decoder, prompts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Go on from prompts (B, P) with tokens drawn from the model's distributions -> (B, length)."""
    tokens = prompts
    while tokens.shape[1] < length:
        rows = torch.arange(1, len(tokens) + 1) * tokens.shape[1] - 1
        last = decoder.logits(_hidden(decoder, tokens)[rows])
        tokens = torch.cat((tokens, torch.multinomial(last.softmax(-1), 1, generator=generator)), 1)
    return tokens[:, :length]
