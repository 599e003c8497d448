"""Images that a user hands over, with what they show: an .npz file, or the IDX files of MNIST and its kind.

Shapes: N images, C channels, H x W places.
"""

import gzip
import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadSettings, NotFound

_IDX_TYPES = {0x08: "u1", 0x0D: ">f4"}
_FORM = "Give .npz with images (N, C, H, W) and labels (N,), or IDX files"


class Images(NamedTuple):
    """Pixels as bytes or as floats of 0 to 1, and the number of the class each image is of, where that is known."""

    pixels: NDArray[Any]  # (N, C, H, W) uint8 or float32
    labels: NDArray[np.int64] | None  # (N,)
    sha256: str  # of the file


def read_images(path: Path) -> Images:
    """The images of an .npz file (``images``, and ``labels`` if they are there) or of an IDX file, gzipped or not.

    Beside ``...images-idx3-ubyte`` its labels are looked for under ``...labels-idx1-ubyte``. Images (N, H, W) are grey;
    channels may come last. Raises ``NotFound`` or ``BadSettings``.
    """
    try:
        data = path.read_bytes()
        pixels, labels = _read_npz(path) if path.suffix == ".npz" else _read_idx_pair(path)
    except FileNotFoundError:
        raise NotFound(f"images {str(path)!r} do not exist", remedy="Check the path") from None
    except (OSError, ValueError, EOFError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise BadSettings(f"images {str(path)!r} cannot be read: {reason}", remedy=_FORM) from None
    return Images(_checked(pixels, path), _checked_labels(labels, len(pixels), path), hashlib.sha256(data).hexdigest())


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    with np.load(path, allow_pickle=False) as file:
        if "images" not in file:
            raise ValueError(f"it holds {', '.join(file.files) or 'nothing'}, no images")
        return file["images"], file.get("labels")


def _read_idx_pair(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    return _read_idx(path), _read_idx(beside) if beside != path and beside.exists() else None


def _read_idx(path: Path) -> NDArray[Any]:
    """LeCun's format: two zero bytes, type, number of axes, their sizes, the numbers."""
    raw = path.read_bytes()
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise ValueError("it is neither .npz nor IDX")
    sizes = np.frombuffer(data, ">u4", count=data[3], offset=4)
    kind = np.dtype(_IDX_TYPES[data[2]])
    numbers = np.frombuffer(data, kind, offset=4 + 4 * data[3])
    if len(numbers) != math.prod(sizes.tolist()):
        raise ValueError(f"it announces {math.prod(sizes.tolist())} numbers and holds {len(numbers)}")
    return numbers.reshape(sizes.tolist()).copy()  # memory of its own, that may be written to


def _checked(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    if pixels.ndim == 3:
        pixels = pixels[:, np.newaxis]
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or not pixels.size:
        raise BadSettings(f"images {str(path)!r} have shape {pixels.shape}", remedy=_FORM)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating) or not ((pixels >= 0) & (pixels <= 1)).all():
        found = "floats beyond 0 to 1" if np.issubdtype(pixels.dtype, np.floating) else str(pixels.dtype)
        raise BadSettings(f"images {str(path)!r} hold {found}", remedy="Give bytes, or floats of 0 to 1")
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _checked_labels(labels: NDArray[Any] | None, count: int, path: Path) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise BadSettings(
            f"images {str(path)!r} have labels of shape {labels.shape} for {count} images",
            remedy="Give one class number of 0 or more per image",
        )
    return labels.astype(np.int64)
