"""The native module is built with the package and sees the processor as the system does."""

from pathlib import Path

from burnish.kernels.cpu._native import features

SYSTEM_NAMES = {"sse4.2": "sse4_2", "avx512vnni": "avx512_vnni"}


def test_features_are_those_the_system_lists() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    known = ("sse4.2", "avx2", "fma", "f16c", "avx512f", "avx512vnni")
    assert features() == [name for name in known if SYSTEM_NAMES.get(name, name) in flags]
