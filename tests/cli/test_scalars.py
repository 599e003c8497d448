"""burnish compress --tensorboard: charts that TensorBoard reads, and none without it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from burnish.cli.scalars import Scalars
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord
from tests.cli.conftest import Run


def charts(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every chart's points."""
    read: Any = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(point.step, point.value) for point in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def record(name: str, relative_error: float, output_error: float | None = None) -> LayerRecord:
    sizes = {"bits": 4.0, "bytes_before": 8, "bytes_after": 1}
    return LayerRecord(
        name=name,
        format="int4",
        relative_error=relative_error,
        output_error=output_error,
        **sizes,  # type: ignore[arg-type]
    )


def test_layers_are_charts_over_blocks_one_a_pass(tmp_path: Path) -> None:
    scalars = Scalars(tmp_path / "tb")
    names = ("layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "head")
    scalars.layers([*(record(name, 0.25 * at) for at, name in enumerate(names)), record(names[1], 0.5, 0.125)])
    scalars.close()
    found = charts(tmp_path / "tb")
    assert found["relative_error/layers.mlp.up_proj"] == [(0, 0.0), (1, 0.25)]
    assert found["relative_error/head"] == [(0, 0.5)]
    assert found["relative_error/layers.mlp.up_proj/pass_2"] == [(1, 0.5)]
    assert found["output_error/layers.mlp.up_proj/pass_2"] == [(1, 0.125)]


def test_a_compression_leaves_its_layers_errors(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    done = burnish("compress", tiny_folder, tmp_path / "out", "--tensorboard", tmp_path / "tb", "--json").json
    found = charts(tmp_path / "tb")
    errors = [value for name, points in found.items() if name.startswith("relative_error") for _, value in points]
    assert len(errors) == done["num_layers"]
    assert max(errors) == pytest.approx(done["worst_relative_error"])


def test_nothing_is_written_for_a_run_that_is_refused(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    refused = burnish("compress", tiny_folder, tmp_path / "out", "--recipe", "int9", "--tensorboard", tmp_path / "tb")
    assert "int9" in refused.complaint
    assert not (tmp_path / "tb").exists()


def test_without_the_package_one_line_says_how_to_get_it(
    burnish: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "burnish.cli.scalars.find_spec", lambda name: None if name == "tensorboard" else importlib.util.find_spec(name)
    )
    refused = burnish("compress", tiny_folder, tmp_path / "out", "--tensorboard", tmp_path / "tb")
    assert refused.complaint == "--tensorboard needs a package. Run: pip install 'burnish[tensorboard]'"
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "tb").write_text("")
    with pytest.raises(BadSettings, match="is no folder"):
        Scalars(tmp_path / "tb")
