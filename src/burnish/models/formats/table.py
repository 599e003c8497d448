"""The weight formats, by the word users write: bits, inputs that share a scale, and zero points ("asym") if any.

A channel is all inputs of an output; "int8" without another word has a scale per channel as well.
"""

from burnish.core.errors import BadRequest, BadSettings, nearest
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.fp8 import FP8
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat

_GROUPS = {f"g{size}": size for size in (128, 64, 32)}
_GROUPS_AND_CHANNEL: dict[str, int | None] = {**_GROUPS, "channel": None}
_ALL: tuple[WeightFormat, ...] = (
    DENSE,
    FP8,
    IntegerFormat("int8", 8, None),
    *(IntegerFormat(f"int8-{word}", 8, size) for word, size in _GROUPS.items()),
    *(
        IntegerFormat(f"int{bits}-{word}", bits, size)
        for bits in (4, 3, 2)
        for word, size in _GROUPS_AND_CHANNEL.items()
    ),
    *(
        IntegerFormat(f"int{bits}-{word}-asym", bits, size, asymmetric=True)
        for bits in (8, 4, 3, 2)
        for word, size in _GROUPS_AND_CHANNEL.items()
    ),
    SparseFormat("int8-2:4", 8, None),
)
FORMATS = {weight_format.name: weight_format for weight_format in _ALL}


def get(name: str) -> WeightFormat:
    """The format of that name. Raises ``BadRequest`` naming the nearest."""
    if name not in FORMATS:
        raise BadRequest(f"unknown weight format {name!r}", remedy=nearest(name, list(FORMATS)))
    return FORMATS[name]


def integer_format(name: object) -> IntegerFormat:
    """The integer format of that name. Raises ``BadSettings`` naming the nearest."""
    found = FORMATS.get(str(name))
    if not isinstance(found, IntegerFormat):
        known = [name for name, stored in FORMATS.items() if isinstance(stored, IntegerFormat)]
        raise BadSettings(f"{name!r} is no integer format", remedy=nearest(str(name), known))
    return found
