"""Decoders whose linear layers are rounded to integers."""

from burnish.compress.passes.grid import quantize
from burnish.models.decoder import Decoder
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import get
from burnish.models.layers.linear import Linear


def round_layers(decoder: Decoder, name: str, *, part: str = "layers.") -> Decoder:
    """The decoder itself, every linear layer whose name holds ``part`` stored in a format."""
    form = get(name)
    assert isinstance(form, IntegerFormat)
    for module, layer in decoder.named_modules():
        if isinstance(layer, Linear) and part in module:
            layer.store(form, form.pack(quantize(layer.dense_weight().detach(), form)))
    return decoder


def linear_names(decoder: Decoder) -> list[str]:
    """Names of all linear layers."""
    return [name for name, layer in decoder.named_modules() if isinstance(layer, Linear)]
