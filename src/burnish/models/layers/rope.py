"""Rotary position embedding: the angle table and the ways checkpoints stretch it."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class RopeScaling(NamedTuple):
    """How a checkpoint was stretched beyond the context it was first trained on.

    ``linear`` divides positions by ``factor``; ``llama3`` divides only slow frequencies, with a smooth
    step between ``low_freq_factor`` and ``high_freq_factor`` (Llama 3.1); ``yarn`` blends by
    ``beta_fast`` and ``beta_slow`` and scales the result (Peng et al. 2023).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


def rope_tables(
    head_dim: int, num_positions: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (num_positions, head_dim / 2), float32."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    magnitude = 1.0
    if scaling is not None:
        inverse = _SCALERS[scaling.kind](inverse, theta, scaling)
        magnitude = _magnitude(scaling)
    angles = torch.outer(torch.arange(num_positions).float(), inverse)
    return angles.cos() * magnitude, angles.sin() * magnitude


def _linear(inverse: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    return inverse / scaling.factor


def _llama3(inverse: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    wavelength = 2 * math.pi / inverse
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_positions / wavelength - low) / (high - low)
    blended = (1 - smooth) * inverse / scaling.factor + smooth * inverse
    slow = wavelength > scaling.original_positions / low
    fast = wavelength < scaling.original_positions / high
    return torch.where(slow, inverse / scaling.factor, torch.where(fast, inverse, blended))


def _yarn(inverse: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    width = 2 * inverse.numel()

    def dimension(rotations: float) -> float:
        return width * math.log(scaling.original_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), width - 1)
    ramp = ((torch.arange(inverse.numel()).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return inverse / scaling.factor * ramp + inverse * (1 - ramp)


def _magnitude(scaling: RopeScaling) -> float:
    if scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return log_growth(scaling.factor)


def log_growth(factor: float, slope: float = 1.0) -> float:
    """YaRN's magnitude of a context stretched by ``factor`` (Peng et al. 2023, equation 22)."""
    return 0.1 * slope * math.log(factor) + 1.0 if factor > 1 else 1.0


_SCALERS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
