"""Which bottleneck holds, by what figures, and what would help by how much: the rules are in ``rules``.

A gain is tokens per second over what they are now, minus 1, predicted from what was observed (``predict``).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

from burnish.engine.config import EngineConfig
from burnish.kernels.native import native
from burnish.measure.diagnose.observe import Situation, observe
from burnish.measure.diagnose.predict import Predictor
from burnish.measure.diagnose.roofline import Ceilings, ceilings
from burnish.measure.diagnose.rules import RULES, Bottleneck, Finding
from burnish.measure.diagnose.scene import ROWS, OperationTime, Scene
from burnish.plan.ops import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """A model in a situation on this machine."""

    situation: Situation
    config: EngineConfig
    ceilings: Ceilings
    weights: str  # their main format
    tokens_per_s: float
    seconds: float
    python_share: float
    mean_running: float
    mean_queue_s: float
    num_preemptions: int
    operations: tuple[OperationTime, ...]
    findings: tuple[Finding, ...]  # what promises most first

    @property
    def bottleneck(self) -> Bottleneck | None:
        """The one whose removal gains most; None when nothing would."""
        return self.findings[0].bottleneck if self.findings and self.findings[0].gain > 0 else None


def diagnose(scene: Scene) -> Diagnosis:
    """Apply every rule."""
    seen = scene.observed
    findings = [finding for rule in RULES for finding in rule(scene)]
    return Diagnosis(
        situation=seen.situation,
        config=seen.config,
        ceilings=scene.ceilings,
        weights=scene.plan.weights,
        tokens_per_s=seen.tokens_per_s,
        seconds=seen.seconds,
        python_share=seen.python_share,
        mean_running=seen.mean_running,
        mean_queue_s=mean(seen.queue_s),
        num_preemptions=seen.num_preemptions,
        operations=scene.operations,
        findings=tuple(sorted(findings, key=lambda finding: -finding.weight)),
    )


def diagnose_plan(
    plan: Plan,
    config: EngineConfig,
    situation: Situation,
    *,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Measure the machine if that was not done yet (or ``again``), observe the model, and say what holds it back.

    ``progress``: (requests done, in all). Raises ``BadSettings`` where there are no native kernels, and as ``observe``.
    """
    return diagnose(look(plan, config, situation, again=again, progress=progress))


def look(
    plan: Plan,
    config: EngineConfig,
    situation: Situation,
    *,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scene:
    """What a diagnosis looks at. As ``diagnose_plan``."""
    all_cores = ceilings(num_cores := len(os.sched_getaffinity(0)), again=again)
    seen = observe(plan, config, situation, progress=progress)
    assert seen.config.threads is not None
    module = native()
    assert module is not None, "ceilings were measured with it"
    return Scene(
        plan=plan,
        observed=seen,
        ceilings=all_cores if seen.config.threads == num_cores else ceilings(seen.config.threads, again=again),
        all_cores=all_cores,
        predictor=Predictor(plan, module, threads=seen.config.threads, max_rows=max(ROWS)),
    )
