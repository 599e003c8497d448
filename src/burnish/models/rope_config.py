"""Rotary settings of a checkpoint, in the older spelling (rope_theta, rope_scaling) and the newer (rope_parameters)."""

from typing import Any, Literal, NamedTuple, cast

from burnish.core.errors import BadCheckpoint
from burnish.models.layers.rope import RopeScaling, log_growth
from burnish.models.raw_config import Raw, forbid, number, optional_number, section, size, word

FULL, SLIDING = "full_attention", "sliding_attention"
SCALINGS = ("linear", "llama3", "yarn")


class Rope(NamedTuple):
    """How one kind of layer rotates."""

    theta: float
    scaling: RopeScaling | None


def read_rope(raw: Raw, default_theta: float) -> Rope:
    """Rotation of layers that see the whole context."""
    newer = section(raw, "rope_parameters")
    settings = section(newer, FULL) if FULL in newer else (newer or section(raw, "rope_scaling"))
    return _rope(settings, raw, number(raw, "rope_theta", default_theta))


def read_window_theta(raw: Raw, default_theta: float) -> float:
    """Theta of layers with a window, where those rotate in their own way (Gemma 3), always unscaled."""
    settings = section(section(raw, "rope_parameters"), SLIDING)
    rope = _rope(settings, raw, number(raw, "rope_local_base_freq", default_theta))
    if rope.scaling is not None:
        kind = rope.scaling.kind
        raise BadCheckpoint(f"config.json scales the rotation of windowed layers by {kind!r}", remedy="Unsupported")
    return rope.theta


def _rope(settings: Raw, raw: Raw, theta: float) -> Rope:
    forbid(raw, partial_rotary_factor=1.0)
    forbid(settings, partial_rotary_factor=1.0, truncate=True)
    kind = word(settings, "rope_type", word(settings, "type", "default"))
    theta = number(settings, "rope_theta", theta)
    if kind == "default":
        return Rope(theta, None)
    if kind not in SCALINGS:
        known = ", ".join(("default", *SCALINGS))
        raise BadCheckpoint(f"config.json: rope scaling {kind!r} is not supported", remedy=f"Known: {known}")
    return Rope(theta, _scaling(settings, raw, cast(Literal["linear", "llama3", "yarn"], kind)))


def _scaling(settings: Raw, raw: Raw, kind: Literal["linear", "llama3", "yarn"]) -> RopeScaling:
    key = "original_max_position_embeddings"
    original = size(settings, key, size(raw, key, size(raw, "max_position_embeddings")))
    if kind == "yarn":
        factor = number(settings, "factor", size(raw, "max_position_embeddings") / original)
        return RopeScaling(
            kind,
            factor,
            original,
            beta_fast=number(settings, "beta_fast", 32.0),
            beta_slow=number(settings, "beta_slow", 1.0),
            attention_factor=_temperature(settings, factor),
        )
    if "factor" not in settings:
        raise BadCheckpoint(f"config.json: rope scaling {kind!r} lacks its factor", remedy="Add it")
    scaling = RopeScaling(kind, number(settings, "factor", 1.0))
    if kind == "linear":
        return scaling
    low, high = number(settings, "low_freq_factor", 1.0), number(settings, "high_freq_factor", 4.0)
    if high <= low:
        raise BadCheckpoint(f"config.json: high_freq_factor {high} is not above low_freq_factor {low}", remedy="Swap")
    return scaling._replace(original_positions=original, low_freq_factor=low, high_freq_factor=high)


def _temperature(settings: Raw, factor: float) -> float | None:
    given = optional_number(settings, "attention_factor")
    slope, slope_all = optional_number(settings, "mscale"), optional_number(settings, "mscale_all_dim")
    if given is None and slope is not None and slope_all is not None:
        return log_growth(factor, slope) / log_growth(factor, slope_all)
    return given


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The older spelling, which every reader understands; the reverse of ``read_rope``."""
    return {"rope_theta": theta} | ({"rope_scaling": _write_scaling(scaling)} if scaling else {})


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        written["original_max_position_embeddings"] = scaling.original_positions
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        written |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            written["attention_factor"] = scaling.attention_factor
    return written
