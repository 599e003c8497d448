"""What a figure was measured on."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

# the instructions that decide how fast these kernels can be
NOTED = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Processor, memory and system."""

    cpu: str
    num_cores: int  # this process may run on
    memory_bytes: int
    features: tuple[str, ...]
    system: str


def this_machine(cpu_info: str | None = None) -> Machine:
    """The machine this process runs on; ``cpu_info`` is the text of /proc/cpuinfo, read when None."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if cpu_info is None else cpu_info
    flags = set((_field(text, "flags") or _field(text, "Features")).split())
    return Machine(
        cpu=_field(text, "model name") or platform.machine(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        features=tuple(name for name in NOTED if name in flags),
        system=platform.platform(),
    )


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
