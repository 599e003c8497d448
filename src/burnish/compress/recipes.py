"""The recipes that have a name, which says what they do."""

from collections.abc import Callable
from pathlib import Path

from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.base import Pass
from burnish.compress.passes.channels import Relearn, ShrinkChannels
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.fp8 import Float8Rounding
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.passes.magnitude import MagnitudePruning
from burnish.compress.passes.qat import QuantizationAwareTraining
from burnish.compress.passes.rotate import Rotate
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.shrink import Shrink
from burnish.compress.passes.smoothquant import Smoothing
from burnish.compress.passes.sparsegpt import SparseGpt
from burnish.compress.passes.static import StaticInputs
from burnish.compress.passes.wanda import Wanda
from burnish.compress.recipe import Recipe
from burnish.compress.recipe_file import read_recipe
from burnish.core.errors import BadSettings, nearest
from burnish.models.formats.table import integer_format


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in the TOML file of that name. Raises ``BadSettings`` naming the nearest."""
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name not in RECIPES:
        raise BadSettings(f"unknown recipe {name!r}", remedy=nearest(name, list(RECIPES)))
    return RECIPES[name]


# groups as large as the layer allows; a width no group divides takes int8 rather than staying dense
_INT4 = ("int4-g128", "int4-g64", "int4-g32", "int8")
_WIDTHS = {"int8": ("int8",), "int4": _INT4} | {
    f"int{bits}-g{size}": (f"int{bits}-g{size}",) for bits in (4, 3, 2) for size in (128, 64, 32)
}
_NUMBERS = {4: "four", 3: "three", 2: "two"}
_ABOUT = {"int8": "eight bits, a scale per output", "int4": "four bits, the widest groups each layer allows"} | {
    f"int{bits}-g{size}": f"{number} bits, groups of {size}"
    for bits, number in _NUMBERS.items()
    for size in (128, 64, 32)
}


def _choice(width: str) -> FormatChoice:
    return FormatChoice(tuple(integer_format(name) for name in _WIDTHS[width]))


_METHODS: dict[str, tuple[str, Callable[[FormatChoice], tuple[Pass, ...]]]] = {
    "": ("rounded to nearest", lambda choice: (RoundToNearest(choice),)),
    "-imatrix": ("scales searched under the importance of the inputs", lambda choice: (ImportanceRounding(choice),)),
    "-gptq": ("GPTQ", lambda choice: (Gptq(choice),)),
    "-awq": ("AWQ, then scales searched", lambda c: (ActivationAwareScaling(c), ImportanceRounding(c))),
    "-autoround": ("AutoRound", lambda choice: (AutoRound(choice),)),
    "-awq-gptq": ("AWQ, then GPTQ", lambda choice: (ActivationAwareScaling(choice), Gptq(choice))),
}


def _named(width: str, method: str) -> Recipe:
    words, make = _METHODS[method]
    bits, _, group = width.partition("-")
    name = f"{bits}{method}-{group}" if group else f"{bits}{method}"
    return Recipe(name, f"{_ABOUT[width]}, {words}", make(_choice(width)))


_MIXED = FormatChoice(tuple(integer_format(name) for name in ("int3-g64", "int4-g128", "int4-g64", "int4-g32", "int8")))
_MIXTURES = {
    f"mixed-{bits}bit-gptq": Recipe(
        f"mixed-{bits}bit-gptq",
        f"{bits} bits a weight on average, three to eight where the model is measured to need them, GPTQ",
        (Gptq(_MIXED),),
        average_bits=float(bits),
    )
    for bits in (5, 6)
}
_TIMED = FormatChoice(tuple(integer_format(name) for name in ("int4-g128", "int4-g64", "int4-g32", "int8")))
_MIXTURES |= {
    f"mixed-latency{percent}-gptq": Recipe(
        f"mixed-latency{percent}-gptq",
        f"decodes in {percent} % of the time of int8, as measured here, in the formats that then lose least, GPTQ",
        (Gptq(_TIMED),),
        latency_share=percent / 100,
    )
    for percent in (90, 70)
}
_PRUNING = (
    ("magnitude", "magnitude", MagnitudePruning),
    ("wanda", "magnitude times input (Wanda)", Wanda),
    ("sparsegpt", "SparseGPT, which makes up for them", SparseGpt),
)
_SPARSE = FormatChoice((integer_format("int8-2:4"), integer_format("int8")))
_SPARSE_RECIPES = {
    f"int8-{name}-2:4": Recipe(
        f"int8-{name}-2:4",
        f"two of every four weights to zero by {words}; the others in eight bits, and only they are stored and read",
        (kind("2:4"), RoundToNearest(_SPARSE)),
    )
    for name, words, kind in _PRUNING
}
_PRUNED = {
    f"{name}-{pattern}": Recipe(
        f"{name}-{pattern}", f"{what} of the weights to zero by {words}; they stay dense", (kind(sparsity),)
    )
    for name, words, kind in _PRUNING
    for pattern, what, sparsity in (("50", "half", 0.5), ("2:4", "two of every four", "2:4"))
}
_LEARNED = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "shrink-25",
            "a quarter of the inner neurons and of the layers go, nothing learns",
            (Shrink(inner=0.25, layers=0.25),),
        ),
        Recipe(
            "shrink-25-distill",
            "a quarter of the inner neurons and of the layers go, then the rest learns from the model",
            (Shrink(inner=0.25, layers=0.25), Distill()),
        ),
        Recipe(
            "shrink-25-distill-int4",
            "shrink-25-distill, then four bits by GPTQ, the widest groups each layer allows",
            (Shrink(inner=0.25, layers=0.25), Distill(), Gptq(_choice("int4"))),
        ),
        *(
            Recipe(
                f"{width.partition('-')[0]}-qat-{width.partition('-')[2]}",
                f"{_ABOUT[width]}, learned with the weights rounded",
                (QuantizationAwareTraining(choice=_choice(width)),),
            )
            for width in ("int4-g128", "int4-g32", "int3-g128", "int2-g32")
        ),
    )
}
_NETWORKS = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "channels-25",
            "images: a quarter of the channels inside of blocks go, nothing learns",
            (ShrinkChannels(share=0.25),),
        ),
        Recipe(
            "channels-25-relearn",
            "images: channels-25, then the rest learns from the network as it came",
            (ShrinkChannels(share=0.25), Relearn()),
        ),
        Recipe(
            "channels-25-relearn-int8",
            "images: channels-25-relearn, then int8-w8a8-static",
            (ShrinkChannels(share=0.25), Relearn(), StaticInputs(), Gptq(_choice("int8"))),
        ),
    )
}
_W8A8 = Recipe(
    "int8-w8a8-smoothquant",
    "eight bits for weights and inputs, outliers moved from the inputs to the weights, GPTQ",
    (Smoothing(), Gptq(_choice("int8"))),
    activations="int8",
)
_STATIC = Recipe(
    "int8-w8a8-static",
    "eight bits for weights and inputs, one settled scale for all inputs of a layer, GPTQ; images and encoders",
    (StaticInputs(), Gptq(_choice("int8"))),
)
_ROTATED = Recipe(
    "int4-rotate-gptq-g128",
    f"{_ABOUT['int4-g128']}, stream and values rotated so that outliers spread (QuaRot), then GPTQ",
    (Rotate(), Gptq(_choice("int4-g128"))),
)
_FP8 = Recipe(
    "fp8-dynamic",
    "eight-bit floats, a scale per output; inputs rounded per token on GPUs",
    (Float8Rounding(),),
)
_LOSSY_ENOUGH = {"int8": ("", "-imatrix", "-gptq")}  # of eight bits nothing is left for scaling to win
RECIPES = (
    {
        recipe.name: recipe
        for width in _WIDTHS
        for recipe in (_named(width, method) for method in _LOSSY_ENOUGH.get(width, tuple(_METHODS)))
    }
    | _MIXTURES
    | _PRUNED
    | _SPARSE_RECIPES
    | _LEARNED
    | _NETWORKS
    | {recipe.name: recipe for recipe in (_W8A8, _STATIC, _ROTATED, _FP8)}
)
