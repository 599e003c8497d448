"""Bars per peer, a row of panels per shape, with the limit that memory sets drawn as a line.

python -m benchmarks.picture.draw RESULTS.json OUT ...
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.peers import FORMATS, NOMINAL_BITS, OURS, SHAPES
from benchmarks.report import group, rounds_text
from benchmarks.results import Measured, Results, read
from benchmarks.workloads import WORKLOADS, Workload

OURS_COLOUR, PEER_COLOUR, LIMIT_COLOUR, INK, FAINT = "#d9480f", "#b9c2cc", "#1f6feb", "#22272e", "#6b7683"
GAP = 0.9  # bars left out between two formats
ROW_INCHES, PANEL_INCHES, LABEL_INCHES = 0.27, 3.0, 2.1


class Bar(NamedTuple):
    """A line and where it stands."""

    line: Measured
    y: float


class Limit(NamedTuple):
    """Tokens per second that memory allows for one format, over the bars of that format."""

    rate: float
    top: float
    bottom: float


def main(source: Path, targets: Sequence[Path]) -> None:
    """Draw once, write every file asked for."""
    mpl.rcParams.update(
        {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "burnish", "svg.fonttype": "path"}
    )
    figure = draw(read(source))
    for target in targets:
        metadata: dict[str, Any] = {"Date": None} if target.suffix == ".svg" else {}
        figure.savefig(target, dpi=110, metadata=metadata)


def draw(results: Results) -> Figure:
    """The whole picture."""
    shapes = [shape for shape in SHAPES if any(line.shape == shape.name for line in results.lines)]
    rows = [bars(results, shape.name) for shape in shapes]
    heights = [max(bar.y for bar in row) + 2.4 for row in rows]
    size = (LABEL_INCHES + PANEL_INCHES * len(WORKLOADS), ROW_INCHES * sum(heights) + 1.35)
    figure = Figure(figsize=size, facecolor="white")
    grid = figure.add_gridspec(
        len(rows),
        len(WORKLOADS),
        height_ratios=heights,
        left=LABEL_INCHES / size[0],
        right=1 - 0.15 / size[0],
        top=1 - 1.15 / size[1],
        bottom=0.3 / size[1],
        wspace=0.14,
        hspace=0.16,
    )
    for number, (shape, row) in enumerate(zip(shapes, rows, strict=True)):
        for column, workload in enumerate(WORKLOADS):
            axes = figure.add_subplot(grid[number, column])
            _panel(axes, row, workload, limits(results, row) if workload.name == "decode-1" else [])
            axes.set_title(f"{shape.title}: {workload.title}", loc="left", color=INK, fontsize=10, fontweight="bold")
            if column == 0:
                _names(axes, row)
    _heading(figure, results, size)
    return figure


def bars(results: Results, shape: str) -> list[Bar]:
    """The lines of a shape that were measured, formats apart, from the top down."""
    placed: list[Bar] = []
    y = 0.0
    for weights in FORMATS:
        lines = [line for line in group(results, shape, weights) if line.runs]
        for line in lines:
            placed.append(Bar(line, y))
            y += 1
        y += GAP if lines else 0
    return placed


def limits(results: Results, row: Sequence[Bar]) -> list[Limit]:
    """What reading every weight once per token allows, at the nominal bits of each format; none in cache."""
    found = []
    for weights in FORMATS:
        places = [bar.y for bar in row if bar.line.format == weights]
        if places and results.bandwidth is not None:
            read_bytes = results.parameters[row[0].line.shape] * NOMINAL_BITS[weights] / 8
            if read_bytes > results.cache_bytes:
                found.append(Limit(results.bandwidth / read_bytes, min(places) - 0.5, max(places) + 0.5))
    return found


def _panel(axes: Any, row: Sequence[Bar], workload: Workload, drawn: Sequence[Limit]) -> None:
    spreads = [(bar, bar.line.spread(workload.name)) for bar in row]
    known = [(bar, spread) for bar, spread in spreads if spread is not None]
    most = max([spread.max for _, spread in known] + [limit.rate for limit in drawn], default=1.0)
    for bar, spread in known:
        ours = bar.line.peer == OURS
        axes.barh(bar.y, spread.median, height=0.74, color=OURS_COLOUR if ours else PEER_COLOUR, linewidth=0)
        axes.plot([spread.min, spread.max], [bar.y, bar.y], color=INK, linewidth=1, alpha=0.55, solid_capstyle="butt")
        weight = "bold" if ours else "normal"
        text = f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.1f}"
        place, behind = (spread.max + most * 0.02, bar.y), {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(*place, text, va="center", color=INK, fontsize=8, fontweight=weight, bbox=behind, zorder=5)
    for limit in drawn:
        axes.plot([limit.rate] * 2, [limit.top, limit.bottom], color=LIMIT_COLOUR, linewidth=1.6)
    axes.set_xlim(0, most * 1.2)
    axes.set_ylim(row[-1].y + 0.7, -0.7)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=FAINT, length=0, labelsize=7.5, pad=2)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="#e6e9ed", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _names(axes: Any, row: Sequence[Bar]) -> None:
    axes.set_yticks([bar.y for bar in row], [bar.line.label for bar in row])
    axes.tick_params(axis="y", length=0, pad=6)
    for label, bar in zip(axes.get_yticklabels(), row, strict=True):
        ours = bar.line.peer == OURS
        label.set(color=OURS_COLOUR if ours else INK, fontweight="bold" if ours else "normal")


def _heading(figure: Figure, results: Results, size: tuple[float, float]) -> None:
    left = 0.25 / size[0]
    figure.text(left, 1 - 0.38 / size[1], "Tokens per second on a CPU", fontsize=15, fontweight="bold", color=INK)
    machine = results.machine
    how = f"peers in turn, medians of {rounds_text(results.rounds)}"
    about = f"{machine['cpu']}, {results.threads} threads, {results.date}; {how}"
    figure.text(left, 1 - 0.66 / size[1], about, fontsize=9, color=FAINT)
    if results.bandwidth is not None:
        text = f"what memory allows: every weight read once a token at {results.bandwidth / 1e9:.1f} GB/s"
        limit = Line2D([], [], color=LIMIT_COLOUR, linewidth=1.6, label=text)
        place = (1 - 0.15 / size[0], 1 - 0.2 / size[1])
        figure.legend(handles=[limit], loc="upper right", bbox_to_anchor=place, frameon=False, labelcolor=INK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(target) for target in sys.argv[2:]])
