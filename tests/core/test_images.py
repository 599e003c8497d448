"""Images in: what can be read, and one line for what cannot."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.core.errors import BadSettings, NotFound
from burnish.core.images import read_images
from tests.conftest import shared

PIXELS = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)


def idx(values: NDArray[np.uint8], folder: Path, name: str) -> Path:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    (folder / name).write_bytes(gzip.compress(header + values.tobytes()))
    return folder / name


def test_npz_in_all_its_forms(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, images=PIXELS, labels=np.array([1, 0]))
    found = read_images(file)
    assert np.array_equal(found.pixels, PIXELS)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    np.savez(file, images=PIXELS.transpose(0, 2, 3, 1).astype(np.float64) / 255)
    found = read_images(file)
    assert found.pixels.dtype == np.float32
    assert np.allclose(found.pixels, PIXELS / 255)
    assert found.labels is None
    np.savez(file, images=PIXELS[:, 0])
    assert read_images(file).pixels.shape == (2, 1, 4, 5)


def test_idx_with_its_labels(tmp_path: Path) -> None:
    path = idx(PIXELS[:, 0], tmp_path, "t-images-idx3-ubyte.gz")
    assert read_images(path).labels is None
    idx(np.array([3, 4], dtype=np.uint8), tmp_path, "t-labels-idx1-ubyte.gz")
    found = read_images(path)
    assert found.pixels.shape == (2, 1, 4, 5)
    assert found.labels is not None
    assert found.labels.tolist() == [3, 4]


def test_mnist_is_read() -> None:
    found = read_images(shared("vision/mnist/t10k-images-idx3-ubyte.gz"))
    assert found.pixels.shape == (10_000, 1, 28, 28)
    assert found.labels is not None
    assert found.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with pytest.raises(NotFound, match="do not exist"):
        read_images(file)
    file.write_bytes(b"nonsense")
    with pytest.raises(BadSettings, match="cannot be read"):
        read_images(file)
    for arrays, fault in (
        ({"pictures": PIXELS}, "no images"),
        ({"images": PIXELS.astype(np.int64)}, "hold int64"),
        ({"images": PIXELS[0, 0]}, r"shape \(4, 5\)"),
        ({"images": PIXELS, "labels": np.array([1])}, r"labels of shape \(1,\)"),
        ({"images": PIXELS, "labels": np.array([1, -1])}, "labels"),
        ({"images": np.full((1, 1, 2, 2), np.nan)}, "hold floats beyond 0 to 1"),
        ({"images": np.full((1, 1, 2, 2), 255.0)}, "hold floats beyond 0 to 1"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(BadSettings, match=fault) as caught:
            read_images(file)
        assert "\n" not in str(caught.value)
    with file.open("wb") as opened:
        np.save(opened, PIXELS)
    with pytest.raises(BadSettings, match="cannot be read"):
        read_images(file)
    broken = tmp_path / "b-images-idx3-ubyte.gz"
    broken.write_bytes(gzip.compress(PIXELS.tobytes())[:12] + b"\xff" * 40)
    with pytest.raises(BadSettings, match="cannot be read"):
        read_images(broken)
    cut = idx(PIXELS[:, 0], tmp_path, "t-images-idx3-ubyte.gz")
    cut.write_bytes(gzip.compress(gzip.decompress(cut.read_bytes())[:-1]))
    with pytest.raises(BadSettings, match="announces 40 numbers and holds 39"):
        read_images(cut)
