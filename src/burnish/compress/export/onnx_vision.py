"""The ONNX graph of a residual network: ``pixel_values`` (B, C, H, W), prepared, to ``logits`` (B, K).

Shapes: B images, C channels, O channels out, H x W places, K classes.
"""

from typing import TYPE_CHECKING, Any

from burnish.compress.export.onnx_graph import (
    FLOAT,
    Graph,
    bias_of,
    bytes_of_inputs,
    bytes_of_weight,
    linear,
    rounded,
    weight,
)
from burnish.compress.export.target import Progress
from burnish.models.layers.conv import Conv2d
from burnish.models.vision import ResidualBlock, VisionModel

if TYPE_CHECKING:
    import onnx


def vision_model(graph: Graph, vision: VisionModel, moved: Progress) -> "onnx.ModelProto":
    """Put the network into the graph -> the file's content."""
    config = vision.config
    x = graph.node("Relu", _conv(graph, "pixel_values", vision.stem))
    if config.stem_pool:
        x = graph.node("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for done, block in enumerate(vision.blocks):
        assert isinstance(block, ResidualBlock)
        x = _block(graph, x, block)
        moved(done + 1, len(vision.blocks))
    pooled = graph.node("ReduceMean", x, graph.numbers(2, 3), keepdims=0)
    graph.node("Identity", linear(graph, pooled, vision.head), out="logits")
    return graph.model(
        "residual_network",
        [("pixel_values", FLOAT, ["images", config.channels, "height", "width"])],
        [("logits", FLOAT, ["images", config.num_classes])],
    )


def _block(graph: Graph, x: str, block: ResidualBlock) -> str:
    inner = x
    for number, conv in enumerate(block.convs):
        assert isinstance(conv, Conv2d)
        inner = _conv(graph, graph.node("Relu", inner) if number else inner, conv)
    return graph.node("Relu", graph.node("Add", inner, _around(graph, x, block)))


def _around(graph: Graph, x: str, block: ResidualBlock) -> str:
    if block.shortcut is not None:
        return _conv(graph, x, block.shortcut)
    if block.pads is None:
        return x
    axes, steps = graph.numbers(2, 3), graph.numbers(block.stride, block.stride)
    fewer = graph.node("Slice", x, graph.numbers(0, 0), graph.numbers(2**31, 2**31), axes, steps)
    half = block.pads // 2
    return graph.node("Pad", fewer, graph.numbers(0, half, 0, 0, 0, block.pads - half, 0, 0))


def _conv(graph: Graph, x: str, conv: Conv2d) -> str:
    """x (B, C, H, W) -> (B, O, H', W')."""
    attributes: dict[str, Any] = {
        "kernel_shape": conv.kernel,
        "strides": conv.stride,
        "pads": (*conv.padding, *conv.padding),
        "dilations": conv.dilation,
    }
    filters = (conv.out_channels, conv.in_channels, *conv.kernel)
    if graph.kind == "int8":
        given = bytes_of_inputs(graph, x, conv.matrix)
        stored = bytes_of_weight(graph, conv.matrix, filters)
        sums = graph.node("ConvInteger", given.codes, stored.codes, given.zero, stored.zero, **attributes)
        scales = graph.node("Mul", given.scale, graph.constant(stored.scales.view(-1, 1, 1)))
        out = graph.node("Mul", graph.node("Cast", sums, to=FLOAT), scales)
    else:
        out = graph.node("Conv", rounded(graph, x, conv.matrix), weight(graph, conv.matrix, filters), **attributes)
    return bias_of(graph, out, conv.matrix, places=2)
