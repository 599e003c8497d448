"""Encoders as ONNX: ONNX Runtime computes what we do, whatever lies beside a text in its batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from burnish.cli.compress import write_variant
from burnish.cli.export import write_export
from burnish.compress.chain import encoder_chain
from burnish.models.encoder_checkpoint import LoadedEncoder, load_encoder, save_encoder
from burnish.models.golden import embeddings_of
from tests.models.test_encoder import made_by_transformers

TEXTS = [torch.randint(4, 96, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (1, 7, 30, 48)]


def silent(*_: object) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "encoder"
    made_by_transformers(folder)
    return folder


def by_onnx_runtime(file: Path) -> NDArray[np.float32]:
    """Embeddings of the texts, all in one padded batch."""
    onnx.checker.check_model(onnx.load(file), full_check=True)
    longest = max(map(len, TEXTS))
    ids = np.array([text + [0] * (longest - len(text)) for text in TEXTS], np.int64)
    mask = np.array([[1] * len(text) + [0] * (longest - len(text)) for text in TEXTS], np.int64)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else it rounds inputs to bytes
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    wanted = ["last_hidden_state", "sentence_embedding"]
    rows, embeddings = session.run(wanted, {"input_ids": ids, "attention_mask": mask})
    assert rows.shape == (len(TEXTS), longest, 64)
    found: NDArray[np.float32] = embeddings
    return found


def exported(model: Path, file: Path, **options: Any) -> NDArray[np.float32]:
    write_export(model, file, "onnx", silent, **options)
    return by_onnx_runtime(file)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_floats_are_the_same(tmp_path: Path, pooling: Any, normalized: bool, activation: str) -> None:
    made_by_transformers(tmp_path / "made", hidden_act=activation)
    loaded = load_encoder(tmp_path / "made")
    object.__setattr__(loaded.encoder.config, "pooling", pooling)
    object.__setattr__(loaded.encoder.config, "normalized", normalized)
    (tmp_path / "model").mkdir()
    save_encoder(LoadedEncoder(loaded.encoder, loaded.raw_config), tmp_path / "model")
    found = exported(tmp_path / "model", tmp_path / "out.onnx")
    ours = embeddings_of(load_encoder(tmp_path / "model").encoder, TEXTS)
    np.testing.assert_allclose(found, ours, atol=2e-5 * np.abs(ours).max())


@pytest.mark.parametrize("recipe", ["int8", "int4-g64", "int4-g32", "int3-g64", "int2-g32"])
def test_integers_keep_their_codes_and_their_size(folder: Path, tmp_path: Path, recipe: str) -> None:
    write_variant(folder, tmp_path / "small", recipe, silent)
    found = exported(tmp_path / "small", tmp_path / "out.onnx")
    ours = embeddings_of(load_encoder(tmp_path / "small").encoder, TEXTS)
    np.testing.assert_allclose(found, ours, atol=2e-5)
    exported(tmp_path / "small", tmp_path / "floats.onnx", type="f32")
    assert (tmp_path / "out.onnx").stat().st_size < 0.6 * (tmp_path / "floats.onnx").stat().st_size


@pytest.mark.parametrize("group", ["g32", "channel"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_zero_points_are_taken_off_the_codes(folder: Path, tmp_path: Path, bits: int, group: str) -> None:
    """Four bits less a zero point reach from -15 to 15, too far for half a byte; eight keep theirs beside them."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[[pass]]\nname = "rtn"\nformats = ["int{bits}-{group}-asym"]\n')
    write_variant(folder, tmp_path / "small", str(recipe), silent)
    found = exported(tmp_path / "small", tmp_path / "out.onnx")
    np.testing.assert_allclose(found, embeddings_of(load_encoder(tmp_path / "small").encoder, TEXTS), atol=2e-5)


def test_bytes_times_bytes_do_not_saturate(folder: Path, tmp_path: Path) -> None:
    """Weights and inputs at the ends of their ranges: what sums in 16 bits would clip."""
    loaded = load_encoder(folder)
    with torch.no_grad():
        for name, layer in encoder_chain(loaded.encoder).layers.items():
            if name.endswith("up_proj"):
                layer.weight.copy_(layer.weight.sign() * 0.05)  # every code is 127
    (tmp_path / "model").mkdir()
    save_encoder(loaded, tmp_path / "model")
    made = write_export(tmp_path / "model", tmp_path / "out.onnx", "onnx", silent, type="int8")
    assert made.types["uint8"] == 18
    assert 0 < made.worst_relative_error < 0.02
    ours = embeddings_of(load_encoder(tmp_path / "model").encoder, TEXTS)
    found = by_onnx_runtime(tmp_path / "out.onnx")
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(ours, axis=1)
    assert ((found * ours).sum(1) / lengths).min() > 0.995
