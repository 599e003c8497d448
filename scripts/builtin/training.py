"""One training run: optimizers, schedule, steps and exact resuming.

Shapes: W windows, C context, B sequences, T tokens of a sequence, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.layers.attention import Attend, AttentionRule
from scripts.builtin.muon import Muon
from scripts.builtin.stream import Stream

QUERY_BLOCK = 256  # queries that attention takes at a time in training
MICRO_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything besides the data that determines the weights."""

    steps: int
    seed: int = 1
    matrix_rate: float = 6e-3  # Muon, scaled to the update size of AdamW
    vector_rate: float = 3e-3  # AdamW: embeddings and norms
    warmup: int = 40
    plateau: int = 512  # steps after which the rates fall slowly, to nothing after ``slope`` steps more
    slope: int = 1088
    cooldown: int = 250  # steps at the end over which they fall to zero whatever the slope
    weight_decay: float = 0.1
    short: int = 512  # tokens of a sequence at first; ``Stream.context`` in the last part
    long_share: float = 0.15
    taught_share: float = 0.2  # of the steps, the last ones, a student learns from its teacher

    def rate(self, step: int) -> float:
        """The factor on both learning rates."""
        slow = (self.plateau + self.slope - step) / self.slope
        return max(0.0, min(1.0, (step + 1) / self.warmup, slow, (self.steps - step) / self.cooldown))

    def length(self, step: int, context: int) -> int:
        """Tokens of a sequence at a step."""
        return context if step >= self.steps * (1 - self.long_share) else self.short

    def taught(self, step: int) -> bool:
        """Whether a step belongs to the last part, in which a teacher is asked."""
        return step >= self.steps * (1 - self.taught_share)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, V), targets (N,), inputs (B, T)) -> mean loss"""


def next_token_loss(logits: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
    """Cross entropy with the text itself."""
    return functional.cross_entropy(logits.float(), targets)


def distillation_loss(teacher: Decoder) -> Loss:
    """Half cross entropy with the text, half with the teacher's distribution (Hinton et al. 2015)."""

    def loss(logits: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = forward(teacher, inputs).float().softmax(-1)
        student = logits.float().log_softmax(-1)
        return 0.5 * functional.nll_loss(student, targets) - 0.5 * (wanted * student).sum(-1).mean()

    return loss


def forward(model: Decoder, tokens: Tensor) -> Tensor:
    """Logits of tokens (B, T) in mixed precision -> (B * T, V)."""
    batch, length = tokens.shape
    positions = torch.arange(length).repeat(batch)
    with torch.autocast("cpu", torch.bfloat16):
        return model.logits(model(tokens.flatten(), positions, blocked_attend(batch, length)))


def blocked_attend(batch: int, length: int) -> Attend:
    """Causal attention in bfloat16, block by block of queries: on a CPU 2-3 times the speed of the fused kernel."""
    hidden = torch.full((QUERY_BLOCK, QUERY_BLOCK), float("-inf"), dtype=torch.bfloat16).triu(1)

    def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        repeats = q.shape[1] // k.shape[1]
        q, k, v = (t.view(batch, length, *t.shape[1:]).transpose(1, 2).bfloat16() for t in (q * rule.scale, k, v))
        k, v = (t.repeat_interleave(repeats, 1) for t in (k, v))  # (B, H, T, D)
        blocks = []
        for start in range(0, length, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, length)
            scores = q[:, :, start:end] @ k[:, :, :end].transpose(2, 3)
            mask = functional.pad(hidden[: end - start, : end - start], (start, 0))
            blocks.append((scores + mask).softmax(-1) @ v[:, :, :end])
        return torch.cat(blocks, 2).transpose(1, 2).reshape(batch * length, -1, q.shape[3])

    return attend


def compile_layers(model: Decoder) -> None:
    """Fuse the small operations of the blocks (needs a C++ compiler; a third faster, other roundings)."""
    torch._dynamo.config.recompile_limit = 64  # one per layer, length and mode
    for layer in model.layers:
        layer.compile(dynamic=False)


class Trainer:
    """A model, its optimizers and the number of steps taken."""

    def __init__(self, config: DecoderConfig, plan: Plan, stream: Stream, teacher: Decoder | None = None) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.stream, self.step = plan, stream, 0
        self.model = Decoder(config)
        for name, parameter in self.model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # every block starts as the identity
                torch.nn.init.zeros_(parameter)
        self._taught_loss = next_token_loss if teacher is None else distillation_loss(teacher)
        matrices = [p for p in self.model.layers.parameters() if p.ndim == 2]
        vectors = [p for n, p in self.model.named_parameters() if not (n.startswith("layers.") and p.ndim == 2)]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.weight_decay),
            torch.optim.AdamW(vectors, lr=plan.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self._rates = (plan.matrix_rate, plan.vector_rate)

    def take_step(self) -> float:
        """One step on the next batch; returns its mean loss."""
        windows = torch.from_numpy(self.stream.batch(self.step))  # (W, C + 1)
        length = self.plan.length(self.step, self.stream.context)
        measure = self._taught_loss if self.plan.taught(self.step) else next_token_loss
        inputs, targets = (t.reshape(-1, length) for t in (windows[:, :-1], windows[:, 1:]))
        rows = max(1, MICRO_TOKENS // length)
        total = 0.0
        for first in range(0, len(inputs), rows):
            part = inputs[first : first + rows]  # (B, T)
            loss = measure(forward(self.model, part), targets[first : first + rows].flatten(), part)
            share = len(part) / len(inputs)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            total += loss.item() * share
        self._update()
        return total

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = self.plan.rate(self.step)
        for optimizer, rate in zip(self.optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    @property
    def tokens_seen(self) -> int:
        """Training tokens of the steps taken."""
        return self.step * self.stream.windows * self.stream.context

    def save(self, path: Path) -> None:
        """Write weights, optimizer states and step; a crash leaves the previous file whole."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        save_atomically(state, path)

    def load(self, path: Path) -> None:
        """Go on exactly where ``save`` was called."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def save_atomically(state: object, path: Path) -> None:
    """``torch.save`` through a temporary file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
