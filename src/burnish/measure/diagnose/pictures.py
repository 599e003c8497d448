"""Pictures of a diagnosis: the roofline with the model's operations on it, and where the time goes, layer by layer."""

import io
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.core.errors import BadSettings
from burnish.measure.diagnose.diagnosis import Diagnosis
from burnish.measure.diagnose.operations import Role
from burnish.measure.diagnose.scene import OperationTime, Stage, by_stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, LIMIT = "#22272e", "#8a939e", "#1f6feb"
COLOURS: dict[Role, str] = {
    "qkv": "#d9480f",
    "out": "#f59f00",
    "up": "#2b8a3e",
    "down": "#74b816",
    "head": "#7048e8",
    "attention": "#1098ad",
    "other": "#868e96",
}
MARKS: dict[Stage, str] = {"prefill": "s", "decode": "o"}
KINDS = ("svg", "png")


def roofline(diagnosis: Diagnosis, model_bytes: float) -> "Figure":
    """Multiply-adds a second over multiply-adds a byte: what was reached, below what this machine can."""
    figure, axes = _figure(7.2, 4.4)
    ceilings, rate = diagnosis.ceilings, diagnosis.ceilings.read_rate(model_bytes)
    groups = [time for time in by_stage(diagnosis.operations).values() if time.work.products and time.seconds]
    intensities = [time.work.intensity for time in groups]
    low, high = min(intensities) / 2, max(*intensities, 4 * ceilings.ridge("int8", model_bytes))
    x = np.geomspace(low, high, 200)
    for number, (kind, products) in enumerate(sorted(ceilings.products, key=lambda limit: limit.products_per_s)):
        axes.plot(x, np.minimum(x * rate, products) / 1e9, color=LIMIT, linewidth=1, alpha=0.8)
        along = high * 0.8 ** (number % 2 * 2)  # names of limits that lie close stand side by side
        axes.annotate(kind, (along, products / 1e9), (0, 3), textcoords="offset points", color=LIMIT, fontsize=8)
    axes.annotate(
        f"reads {rate / 1e9:.1f} GB/s",
        (ceilings.ridge("int8", model_bytes), ceilings.product_rate("int8") / 1e9),
        (-90, 6),
        textcoords="offset points",
        color=LIMIT,
        fontsize=8,
    )
    for time in groups:
        point = (time.work.intensity, time.work.products / time.seconds / 1e9)
        role = time.place.role
        axes.plot(*point, MARKS[time.stage], color=COLOURS[role], markersize=7, label=f"{role}, {time.stage}")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("multiply-adds per byte", fontsize=9)
    axes.set_ylabel("G multiply-adds per second", fontsize=9)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=6)
    axes.set_title(f"{_about(diagnosis)}: what is reached, and what this machine can", fontsize=9, loc="left")
    return figure


def layers(diagnosis: Diagnosis) -> "Figure":
    """Milliseconds of every layer, a colour for each kind of operation; the least they could take as a line."""
    bars, limits = _by_layer(diagnosis.operations)
    figure, axes = _figure(7.2, 1.2 + 0.22 * len(limits))
    left = dict.fromkeys(limits, 0.0)
    for role, colour in COLOURS.items():
        widths = [1e3 * bars[role].get(layer, 0.0) for layer in limits]
        axes.barh(list(limits), widths, left=list(left.values()), color=colour, height=0.75, label=role)
        left = {layer: before + width for (layer, before), width in zip(left.items(), widths, strict=True)}
    for row, limit in enumerate(limits.values()):
        axes.plot([1e3 * limit] * 2, [row - 0.45, row + 0.45], color=INK, linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds in all steps; the line: the least it could take", fontsize=9)
    figure.legend(fontsize=7, frameon=False, ncols=len(COLOURS), loc="outside lower center")
    axes.set_title(f"{_about(diagnosis)}: time by layer", fontsize=9, loc="left")
    return figure


def _by_layer(operations: tuple[OperationTime, ...]) -> tuple[dict[Role, dict[str, float]], dict[str, float]]:
    bars: dict[Role, dict[str, float]] = {role: defaultdict(float) for role in COLOURS}
    limits: dict[str, float] = defaultdict(float)
    ordered = sorted(operations, key=lambda time: (time.place.layer is None, time.place.layer or 0))
    for time in ordered:
        name = "outside" if time.place.layer is None else f"layer {time.place.layer}"
        bars[time.place.role][name] += time.seconds
        limits[name] += time.limit_s
    return bars, limits


def _about(diagnosis: Diagnosis) -> str:
    count, threads = diagnosis.situation.concurrency, diagnosis.ceilings.threads
    together = f"{count} request{'s' * (count > 1)} at a time"
    return f"{diagnosis.weights}, {together}, {threads} thread{'s' * (threads > 1)}"


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color="#e6e8eb", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def drawn(figure: "Figure", kind: str = "svg") -> bytes:
    """A figure as the bytes of a file, the same for the same figure. Raises ``BadSettings`` for an unknown kind."""
    import matplotlib as mpl

    if kind not in KINDS:
        raise BadSettings(f"picture of kind {kind!r} is not drawn", remedy=f"Use {' or '.join(KINDS)}")
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "burnish", "svg.fonttype": "none"}):
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def write_pictures(diagnosis: Diagnosis, model_bytes: float, folder: Path) -> list[Path]:
    """Both pictures, each as SVG and as PNG; the folder is made. Raises ``BadSettings`` when it cannot be written."""
    written = []
    for name, figure in (("roofline", roofline(diagnosis, model_bytes)), ("layers", layers(diagnosis))):
        for kind in KINDS:
            path = folder / f"{name}.{kind}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(drawn(figure, kind))
            except OSError as error:
                raise BadSettings(
                    f"{str(path)!r} cannot be written: {error.strerror}", remedy="Choose another"
                ) from None
            written.append(path)
    return written
