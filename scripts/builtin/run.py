"""A training run in a folder: progress bar, log, checkpoints, best weights."""

import json
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from burnish.models.decoder import Decoder, DecoderConfig
from scripts.builtin.evaluate import Monitor
from scripts.builtin.training import Trainer, save_atomically

LOOK_EVERY = 100  # steps between looks at held-out text, each followed by a checkpoint


class Run:
    """Takes a trainer from its last checkpoint to the end of its plan."""

    def __init__(self, name: str, trainer: Trainer, monitor: Monitor, folder: Path) -> None:
        self.name, self.trainer, self.monitor, self.folder = name, trainer, monitor, folder
        self._last = folder / f"{name}.last.pt"
        if self._last.exists():
            trainer.load(self._last)
        best = _best(folder, name)
        self._lowest = torch.load(best, weights_only=True)["judged"] if best.exists() else float("inf")

    def finish(self) -> None:
        """Take all steps that are left."""
        plan, losses, began = self.trainer.plan, list[float](), time.time()
        with _progress(self.name) as bar:
            task = bar.add_task("", total=plan.steps, completed=self.trainer.step, loss=float("nan"))
            while self.trainer.step < plan.steps:
                losses.append(self.trainer.take_step())
                bar.update(task, completed=self.trainer.step, loss=losses[-1])
                if self.trainer.step % LOOK_EVERY == 0 or self.trainer.step == plan.steps:
                    bar.console.print(self._look(sum(losses) / len(losses), time.time() - began))
                    losses.clear()
                    self.trainer.save(self._last)

    def _look(self, train_loss: float, seconds: float) -> str:
        """Measure on held-out text, log it, keep the weights if they are the best; returns the log line."""
        found = self.monitor.losses(self.trainer.model)
        line = {"model": self.name, "step": self.trainer.step, "tokens": self.trainer.tokens_seen}
        line |= {"seconds": round(seconds), "train": train_loss} | found._asdict()
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if found.judged < self._lowest:
            self._lowest = found.judged
            weights = self.trainer.model.state_dict()
            save_atomically({"model": weights, "judged": self._lowest}, _best(self.folder, self.name))
        return json.dumps(line)


def load_best(folder: Path, name: str, config: DecoderConfig) -> Decoder:
    """The best weights of a run so far."""
    model = Decoder(config)
    model.load_state_dict(torch.load(_best(folder, name), weights_only=True)["model"])
    return model.eval()


def _best(folder: Path, name: str) -> Path:
    return folder / f"{name}.best.pt"


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
