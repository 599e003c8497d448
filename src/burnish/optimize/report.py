"""The page of a search, and the same figures as plain data. Whatever is on the page is in the data."""

import base64
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from burnish.measure.intervals import Interval
from burnish.optimize.search import Asked, Outcome, Tried
from burnish.optimize.weigh import FIGURE_OF, NAMES, TOLD_AS, Weighed, is_gain

OFFSETS = (-12, 4, 14, 24)  # points
BEST, INK, FAINT, OTHER = "#d9480f", "#22272e", "#8a939e", "#1f6feb"


def plain(outcome: Outcome, asked: Asked, conditions: dict[str, Any]) -> dict[str, Any]:
    """The search as JSON takes it."""
    weighed = {one.name: one for one in outcome.weighed}
    chosen = None if outcome.chosen is None else weighed[outcome.chosen]
    return {
        "chosen": outcome.chosen,
        "reason": outcome.reason,
        "objective": asked.objective,
        "figure": FIGURE_OF[asked.objective],
        "told_as": TOLD_AS[asked.objective],
        "max_loss": asked.max_loss,
        "limits": [str(limit) for limit in asked.limits],
        "unmet": [str(limit) for limit in outcome.unmet],
        "nearest": outcome.nearest,
        "loss_ratio": None if chosen is None else chosen.figures["loss_ratio"],
        "baseline": _weighed(outcome.own, asked),
        "pareto": list(outcome.pareto),
        "candidates": [_tried(one, weighed.get(one.name), asked) for one in outcome.tried],
        "is_priced": outcome.own.figures["cost_per_million"] > 0,
        "conditions": conditions,
    }


def _weighed(one: Weighed, asked: Asked) -> dict[str, Any]:
    return {
        "name": one.name,
        "figures": {name: one.figures[name] for name in NAMES},
        "ratio": _interval(one.ratio),
        "is_gain": is_gain(one.ratio, asked.objective),
    }


def _tried(one: Tried, weighed: Weighed | None, asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": one.name,
        "size_mb": one.size_mb or None,
        "loss": _interval(one.loss),
        "confirmed": _interval(one.confirmed),
        "verdict": one.verdict,
        "reason": one.reason,
        "num_rounds": len(one.rounds),
    }
    return found | ({} if weighed is None else _weighed(weighed, asked))


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    """Bounds that are infinite are none."""
    if found is None:
        return None
    bounded = found.high < float("inf")
    return {
        "value": found.value,
        "low": found.low if bounded else None,
        "high": found.high if bounded else None,
    }


def page(report: dict[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    environment = Environment(
        loader=PackageLoader("burnish.optimize", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    timed = [one for one in report["candidates"] if "figures" in one]
    return environment.get_template("report.html").render(report=report, timed=timed, picture=_picture(report, timed))


def _picture(report: dict[str, Any], timed: Sequence[dict[str, Any]]) -> str:
    """What every candidate loses and what it gains, as the source of an image."""
    from matplotlib.figure import Figure

    from burnish.measure.diagnose.pictures import drawn

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(sorted(timed, key=lambda one: one["ratio"]["value"])):
        colour = BEST if one["name"] == report["chosen"] else (OTHER if one["name"] in report["pareto"] else FAINT)
        loss, ratio = one["loss"], one["ratio"]
        x, y = 100 * loss["value"], ratio["value"]
        spread = [[max(0.0, y - (ratio["low"] or y))], [max(0.0, (ratio["high"] or y) - y)]]
        error = [[100 * (loss["value"] - loss["low"])], [100 * (loss["high"] - loss["value"])]]
        axes.errorbar([x], [y], yerr=spread, xerr=error, fmt="o", color=colour, elinewidth=1, markersize=5)
        place = (7, OFFSETS[number % len(OFFSETS)])  # names of points that lie close stand one above the other
        axes.annotate(one["name"], (x, y), place, textcoords="offset points", fontsize=7, color=colour)
    axes.axvline(100 * report["max_loss"], color=INK, linewidth=1, linestyle="--")
    axes.axhline(1.0, color=FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("loss of perplexity, %; the dashed line: what is allowed", fontsize=9)
    axes.set_ylabel(f"{report['told_as']} over the model's own", fontsize=9)
    encoded = base64.b64encode(drawn(figure)).decode()
    return f"data:image/svg+xml;base64,{encoded}"
