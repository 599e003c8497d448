"""SmoothQuant: scales by the paper's formula, and less lost by eight bits on both sides where inputs have outliers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from burnish.compress.chain import Part, SharedInput
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.smoothquant import Smoothing
from burnish.compress.recipes import find_recipe
from burnish.compress.statistics import Flow
from burnish.core.errors import BadSettings
from burnish.models.formats.table import integer_format
from burnish.models.layers.linear import Linear
from burnish.models.layers.norm import RMSNorm


def after(source: RMSNorm | Linear, *layers: Linear) -> Part:
    """A part of layers that share what ``source`` gives."""
    named = {f"layer{number}": layer for number, layer in enumerate(layers)}

    def run(x: Tensor) -> Tensor:
        rows = source(x.flatten(0, 1))
        return torch.cat([layer(rows) for layer in layers], -1).view(*x.shape[:2], -1)

    return Part(
        name="part",
        module=nn.ModuleList([source, *layers]),
        layers=named,
        inputs=(SharedInput(layers=tuple(named), source=source),),
        run=run,
    )


def linear(weight: Tensor) -> Linear:
    made = Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return made


@pytest.mark.parametrize(
    ("alpha", "scales"),
    [(0.5, [4.0, 0.5, 1.0]), (0.75, [8.0, 0.5**0.5, 2.0]), (1.0, [16.0, 1.0, 4.0]), (0.0, [1.0, 0.25, 0.25])],
)
def test_scales_are_largest_input_to_alpha_over_largest_weight_to_the_rest(alpha: float, scales: list[float]) -> None:
    inputs = torch.tensor([[[16.0, -1.0, 0.5], [-3.0, 0.25, -4.0]]])  # largest: 16, 1, 4
    weights = torch.tensor([[1.0, 2.0, -4.0], [-0.5, 0.0, 1.0]]), torch.tensor([[0.25, -4.0, 3.0]])  # of both: 1, 4, 4
    source, layers = linear(torch.eye(3)), [linear(weight) for weight in weights]
    part = after(source, *layers)
    before = part.run(inputs)
    assert list(Smoothing(alpha).apply(part, Flow(hidden=inputs))) == []
    for layer, weight in zip(layers, weights, strict=True):
        torch.testing.assert_close(layer.weight, weight * torch.tensor(scales))
    torch.testing.assert_close(source.weight, (1 / torch.tensor(scales)).diag())
    torch.testing.assert_close(part.run(inputs), before)


def rounded(rows: Tensor, layer: Linear) -> Tensor:
    """What eight bits make of a layer's outputs: a scale per row of the inputs, and per output of the weight."""
    steps = rows.abs().amax(-1, keepdim=True) / 127
    weight = quantize(layer.dense_weight().detach(), integer_format("int8")).dequantize()
    return (rows / steps).round() * steps @ weight.T


@pytest.mark.parametrize("seed", range(3))
def test_eight_bits_on_both_sides_lose_less_where_inputs_have_outliers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.empty(8, 64, 128).normal_(generator=generator)
    norm, layer = RMSNorm(128, eps=1e-5), linear(torch.empty(48, 128).normal_(generator=generator))
    norm.requires_grad_(False).weight[::16] = 40.0  # where the outliers of language models come from
    rows = hidden.flatten(0, 1)
    expected = layer(norm(rows))
    plain = float((rounded(norm(rows), layer) - expected).norm())
    list(Smoothing().apply(after(norm, layer), Flow(hidden=hidden)))
    torch.testing.assert_close(layer(norm(rows)), expected, rtol=1e-4, atol=1e-3)
    smoothed = float((rounded(norm(rows), layer) - expected).norm())
    assert smoothed < 0.5 * plain


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_an_alpha_that_is_no_share_is_refused(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=rf"alpha {alpha} is no share\. Use 0 to 1"):
        Smoothing(alpha)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[[pass]]\nname = "smoothquant"\nalpha = {alpha}\n[[pass]]\nname = "rtn"\nformats = ["int8"]\n')
    with pytest.raises(BadSettings, match="is no share"):
        find_recipe(str(recipe))
