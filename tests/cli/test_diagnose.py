"""burnish diagnose: from the words to the findings, and the machine measured again."""

from pathlib import Path

import pytest

from burnish.kernels.native import native
from tests.cli.conftest import Run

pytestmark = pytest.mark.skipif(native() is None, reason="installed without native kernels")
SHORT = ("--requests", 2, "--prompt-tokens", 8, "--output-tokens", 4, "--threads", 1)


def test_findings_are_told_and_the_machine_is_measured_once_or_again(
    burnish: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = burnish("diagnose", "builtin-draft", *SHORT, "--json").json
    assert found["bottleneck"] in {one["bottleneck"] for one in found["findings"]}
    assert found["tokens_per_s"] > 0
    [kept] = tmp_path.rglob("ceilings-1.json")
    first = kept.stat().st_mtime_ns
    assert burnish("diagnose", "builtin-draft", *SHORT).code == 0
    assert kept.stat().st_mtime_ns == first
    assert burnish("diagnose", "builtin-draft", *SHORT, "--again").code == 0
    assert kept.stat().st_mtime_ns > first
