"""burnish export on the command line."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--to", "guff"), "unknown export target 'guff'. Did you mean 'gguf'"),
        (("--to", "gguf", "--type", "q5_0"), "--to gguf has no --type 'q5_0'"),
        (("--to", "hf", "--embeddings", "f16"), "--to hf has no --embeddings 'f16'"),
    ],
)
def test_what_no_target_knows_is_refused(
    burnish: Run, tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], fault: str
) -> None:
    assert burnish("export", tiny_folder, tmp_path / "out", *options).complaint.startswith(fault)


def test_what_was_written_is_told(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    made = burnish("export", tiny_folder, tmp_path / "out.gguf", "--to", "gguf", "--json").json
    assert made["bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert (made["target"], made["type"]) == ("gguf", "auto")
    assert made["types"]["F16"] > 0
    told = burnish("export", tiny_folder, tmp_path / "folder", "--to", "hf")
    assert (told.code, "exact" in told.err) == (0, True)


def test_sparse_weights_leave_for_others_as_floats_or_codes(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert burnish("compress", tiny_folder, tmp_path / "sparse", "--recipe", "int8-magnitude-2:4").code == 0
    refused = burnish("export", tmp_path / "sparse", tmp_path / "out", "--to", "hf").complaint
    assert refused.endswith("is stored in a format only burnish reads. Use --type bf16")
    assert not (tmp_path / "out").exists()
    assert burnish("export", tmp_path / "sparse", tmp_path / "out", "--to", "hf", "--type", "bf16").code == 0
