"""What goes wrong while compressing is told in one line, and leaves nothing that could be loaded."""

import errno
from pathlib import Path

import pytest
import torch

from burnish.assemble import load_checked
from burnish.cli.compress import Asked, write_variant
from burnish.compress.calibration import CalibrationConfig
from burnish.core.errors import BadSettings, BurnishError
from burnish.models.checkpoint import save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.golden import golden_logits
from tests.compress.parts import blocks
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

ROUNDING = ("int4-imatrix-g32", "int4-gptq-g32", "int4-awq-g32", "int4-autoround-g32", "int8-w8a8-smoothquant")
PRUNING = ("wanda-50", "sparsegpt-50")
SAMPLING = CalibrationConfig(samples=40, length=64)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "story.txt"
    file.write_text("".join(f"Line {i} has {i * i % 97} foxes and {i * 7 % 31} hens.\n" for i in range(120)))
    return file


def silent(*_: object) -> None:
    """Nobody watches."""


def saved(decoder: Decoder, folder: Path) -> Path:
    save_checkpoint(decoder, folder, family="llama", dtype=torch.float32)
    write_byte_tokenizer(folder)
    return folder


@pytest.mark.parametrize("recipe", [*ROUNDING, *PRUNING])
def test_a_layer_that_is_never_activated_is_compressed_like_the_others(
    story: Path, tmp_path: Path, recipe: str
) -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        blocks(decoder)[0].mlp.up_proj.weight.zero_()  # so nothing reaches down_proj
        blocks(decoder)[1].attn.v_proj.weight.zero_()  # nor o_proj
    asked = Asked(calibration=story, sampling=SAMPLING)
    made = write_variant(saved(decoder, tmp_path / "model"), tmp_path / "out", recipe, silent, asked)
    stored = load_checked(made.path).decoder
    logits = golden_logits(stored, [[1, 2, 3]])
    assert torch.isfinite(torch.from_numpy(logits)).all()
    for layer in (blocks(stored)[0].mlp.down_proj, blocks(stored)[1].attn.o_proj):
        assert torch.isfinite(layer.dense_weight()).all()
        assert layer.dense_weight().any(), "what was not seen is not thrown away"


@pytest.mark.parametrize("recipe", ["int8", *ROUNDING, *PRUNING])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(story: Path, tmp_path: Path, recipe: str, bad: float) -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        blocks(decoder)[1].mlp.up_proj.weight[3, 5] = bad
    asked = Asked(calibration=None if recipe == "int8" else story, sampling=SAMPLING)
    with pytest.raises(BurnishError) as caught:
        write_variant(saved(decoder, tmp_path / "model"), tmp_path / "out", recipe, silent, asked)
    assert "\n" not in str(caught.value)
    assert "layers.1.mlp.up_proj" in str(caught.value)
    assert not (tmp_path / "out").exists()


SHRINK = '[[pass]]\nname = "shrink"\ninner = 0.25\n'
LEARNED = {
    "shrunk": SHRINK,
    "gradient": f'{SHRINK}by = "gradient"\n',
    "distilled": f'{SHRINK}[[pass]]\nname = "distill"\nsteps = 1\nlength = 32\n',
    "qat": '[[pass]]\nname = "qat"\nsteps = 1\nlength = 32\nformats = ["int4-g32"]\n',
    "mixed": 'average_bits = 6\n[[pass]]\nname = "gptq"\nformats = ["int4-g32", "int8"]\n',
}
TENSORS = (
    "embed_tokens.weight",
    "norm.weight",
    "layers.0.mlp_norm.weight",
    "layers.1.attn.q_proj.bias",
    "layers.0.mlp.down_proj.weight",
)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("recipe", ["int8", "int4-gptq-g32", *LEARNED])
def test_any_tensor_that_holds_no_number_is_named_before_any_work(
    story: Path, tmp_path: Path, recipe: str, name: str
) -> None:
    decoder = tiny_decoder(qkv_bias=True, out_bias=True)
    with torch.no_grad():
        decoder.get_parameter(name).view(-1)[3] = float("nan")
    if recipe in LEARNED:
        (tmp_path / f"{recipe}.toml").write_text(LEARNED[recipe])
    words = str(tmp_path / f"{recipe}.toml") if recipe in LEARNED else recipe
    asked = Asked(calibration=None if recipe == "int8" else story, sampling=SAMPLING)
    moved: list[tuple[int, int]] = []
    with pytest.raises(BurnishError) as caught:
        write_variant(saved(decoder, tmp_path / "model"), tmp_path / "out", words, lambda *at: moved.append(at), asked)
    remedy = "Fetch the weights again: nothing was written"
    assert str(caught.value) == f"tensor {name} holds infinities or what is no number. {remedy}"
    assert moved == []
    assert {path.name for path in tmp_path.iterdir()} <= {"model", f"{recipe}.toml"}


@pytest.mark.parametrize("recipe", ["int8", "int4-gptq-g32"])
def test_a_full_disk_leaves_nothing_that_could_be_loaded(
    story: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("burnish.models.checkpoint.write_tensors", full)
    asked = Asked(calibration=None if recipe == "int8" else story, sampling=SAMPLING)
    with pytest.raises(BadSettings, match="No space left on device"):
        write_variant(tiny_folder, tmp_path / "out", recipe, silent, asked)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".unfinished")] == []
    monkeypatch.undo()
    assert load_checked(write_variant(tiny_folder, tmp_path / "out", recipe, silent, asked).path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what was finished is used and cleared away"


def test_too_little_data_says_how_much_is_needed(tiny_folder: Path, tmp_path: Path) -> None:
    for text in ("", "a few words"):
        (tmp_path / "data.txt").write_text(text)
        with pytest.raises(BadSettings, match=r"too few|holds no|is empty") as caught:
            write_variant(tiny_folder, tmp_path / "out", "int4-gptq", silent, Asked(calibration=tmp_path / "data.txt"))
        assert "2048" in str(caught.value)
        assert not (tmp_path / "out").exists()
