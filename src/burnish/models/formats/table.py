"""The weight formats, by the word users write."""

from burnish.core.errors import BadRequest, BadSettings, nearest
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.fp8 import FP8
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat

_ALL: tuple[WeightFormat, ...] = (
    DENSE,
    FP8,
    IntegerFormat("int8", 8, None),
    *(IntegerFormat(f"int8-g{size}", 8, size) for size in (128, 64, 32)),
    *(IntegerFormat(f"int{bits}-g{size}", bits, size) for bits in (4, 3, 2) for size in (128, 64, 32)),
    *(
        IntegerFormat(f"int{bits}-g{size}-asym", bits, size, asymmetric=True)
        for bits in (4, 3, 2)
        for size in (128, 64, 32)
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
