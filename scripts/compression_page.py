"""The page that scripts/write_compression.py writes; every figure and verdict on it is computed from measurements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from burnish.measure.intervals import Interval
from burnish.measure.quality.gate import judge_loss
from scripts.measured import CALIBRATION, TEXTS, costs, mebibytes, text_list

METHODS = ("", "-imatrix", "-gptq", "-awq", "-awq-gptq", "-autoround")
RECIPES = (
    *("int8", "int8-gptq", "int8-w8a8-smoothquant", "fp8-dynamic"),
    *(f"int4{method}-g128" for method in METHODS),
    *("int4-rotate-gptq-g128", "int4-qat-g128", "int4-g32", "int4-gptq-g32", "int4-autoround-g32"),
    *("mixed-5bit-gptq", "mixed-6bit-gptq", "mixed-latency90-gptq"),
    *(f"int3{method}-g128" for method in METHODS),
    "int3-qat-g128",
    *(f"int2{method}-g32" for method in METHODS),
    "int2-qat-g32",
    *(f"{method}-{pattern}" for pattern in ("50", "2:4") for method in ("magnitude", "wanda", "sparsegpt")),
    *("int8-magnitude-2:4", "int8-sparsegpt-2:4"),
    *("shrink-25", "shrink-25-distill", "shrink-25-distill-int4"),
)
BY_BITS = ((4, "g128"), (3, "g128"), (2, "g32"))
KEYS = "keys and values of eight bits"
_SAID = {"pass": "met", "fail": "missed", "needs more data": "open: the interval holds the aim"}

HEAD = """# What compression costs

Written by `scripts/write_compression.py`: each recipe applied to the model `{model}`, {size} in its own files,
calibrated with 128 samples of 512 tokens of `{calibration}` (seed 0), then measured as it is served. Change: perplexity
over the parent's, minus 1, on the same {max_tokens:,} tokens of each text, in windows of 512 tokens with a stride of
256, with its 95 % interval; KL: of the parent's distribution from the variant's, nats per token, mean of the texts;
same: how often both find the same token likeliest. Time and peak memory are those of the whole command on two cores.
Other work ran on these cores at the same time, and later rows had one thread: times must not be compared.

| recipe | size | {texts} | KL | same | time | memory |
|---|---:|{rules}---:|---:|---:|---:|
"""


class Aim(NamedTuple):
    """A loss of perplexity that was aimed at, on every text."""

    what: str
    recipes: tuple[str, ...]  # the one counts that loses least on the text on which it loses most
    at_most: float


AIMS = (
    Aim("int8", ("int8",), 0.003),
    Aim("four bits in groups of 128, by the best pass", tuple(f"int4{m}-g128" for m in (*METHODS, "-qat")), 0.03),
    Aim("five bits on average, mixed", ("mixed-5bit-gptq",), 0.015),
    Aim(KEYS, (KEYS,), 0.002),
)

LAWS = (
    *((f"int{bits}-{method}-{group}", f"int{bits}-{group}") for bits, group in BY_BITS for method in ("gptq", "awq")),
    *((f"int{bits}-imatrix-{group}", f"int{bits}-{group}") for bits, group in BY_BITS),
    *((f"int{bits}-autoround-{group}", f"int{bits}-{group}") for bits, group in BY_BITS),
    *((f"int{bits}-qat-{group}", f"int{bits}-gptq-{group}") for bits, group in BY_BITS),
    *(
        pair
        for pattern in ("50", "2:4")
        for pair in (
            (f"sparsegpt-{pattern}", f"wanda-{pattern}"),
            (f"wanda-{pattern}", f"magnitude-{pattern}"),
        )
    ),
    ("shrink-25-distill", "shrink-25"),
)
"""What theory and larger models say loses less than what."""
LAWS_HEAD = """What should lose less, and whether it does, by KL on the text nearest to the calibration data (stories)
and by the mean of all three:

| less | than | stories | mean |
|---|---|---:|---:|"""

Measured = Mapping[str, dict[str, Any]]


def page(about: dict[str, Any], recipes: Measured, keys: Measured) -> str:
    """The whole page: the table in the order of ``RECIPES``, keys and values, the aims, the texts."""
    ordered = [name for name in RECIPES if name in recipes]
    ordered += [name for name in recipes if name not in RECIPES]
    head = HEAD.format(
        model=about["model"],
        size=mebibytes(recipes[ordered[0]]["parent_bytes"]),
        calibration=Path(CALIBRATION).name,
        max_tokens=about["max_tokens"],
        texts=" | ".join(TEXTS),
        rules="---:|" * len(TEXTS),
    )
    rows = [f"| `{name}` | {row(recipes[name])} |" for name in ordered]
    if all(text in keys for text in TEXTS):
        rows.append(f"| {KEYS} | | {' | '.join(_losses(keys))} | | |")
    aims = [_aim(aim, {**recipes, KEYS: dict(keys)}) for aim in AIMS]
    parts = ["\n".join(rows), "Aims, on every text:", "\n".join(aims), _laws(recipes), "Texts:", text_list(about)]
    return head + "\n\n".join(parts) + "\n"


def _laws(recipes: Measured) -> str:
    rows = [LAWS_HEAD]
    for less, more in LAWS:
        if less in recipes and more in recipes:
            pairs = (
                tuple(float(recipes[name]["stories"]["kl"]["value"]) for name in (less, more)),
                tuple(divergence(recipes[name]) for name in (less, more)),
            )
            told = [f"{one:.4f}, {other:.4f}" + ("" if one < other else ": no") for one, other in pairs]
            rows.append(f"| `{less}` | `{more}` | {' | '.join(told)} |")
    return "\n".join(rows) + "\n\nWhy Wanda does not, and what other calibration data changes: docs/log.md."


def row(found: dict[str, Any]) -> str:
    """The cells of a recipe."""
    return " | ".join([mebibytes(found["bytes"]), *_losses(found), *costs(found)])


def _losses(found: Mapping[str, Any]) -> list[str]:
    """Changes on every text, mean KL, mean agreement."""
    changes = [change(found[text]["loss_ratio"]) for text in TEXTS]
    same = sum(found[text]["top1_agreement"]["value"] for text in TEXTS) / len(TEXTS)
    return [*changes, f"{divergence(found):.4f}", f"{100 * same:.1f} %"]


def change(ratio: Mapping[str, float]) -> str:
    """A loss with half of its interval."""
    return f"{100 * ratio['value']:+.2f} ± {50 * (ratio['high'] - ratio['low']):.2f} %"


def divergence(found: Mapping[str, Any]) -> float:
    """The mean KL over the texts, nats per token."""
    return sum(float(found[text]["kl"]["value"]) for text in TEXTS) / len(TEXTS)


def _aim(aim: Aim, measured: Measured) -> str:
    there = [name for name in aim.recipes if all(text in measured.get(name, {}) for text in TEXTS)]
    begin = f"- {aim.what}, at most {100 * aim.at_most:.1f} %"
    if not there:
        return f"{begin}: not measured"
    best = min(there, key=lambda name: max(measured[name][text]["loss_ratio"]["value"] for text in TEXTS))
    chosen = f" (`{best}`)" if len(aim.recipes) > 1 else ""
    told = [f"{text} {_verdict(measured[best][text]['loss_ratio'], aim.at_most)}" for text in TEXTS]
    return f"{begin}{chosen}: {'; '.join(told)}"


def _verdict(ratio: dict[str, float], at_most: float) -> str:
    interval = Interval(ratio["value"], ratio["low"], ratio["high"])
    return f"{change(ratio)}, {_SAID[judge_loss(interval, at_most)]}"
