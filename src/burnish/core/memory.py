"""Memory of this process and of the machine, as Linux tells it, and sizes as people write them."""

import ctypes
import re
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from burnish.core.errors import BadSettings

_SIZE = TypeAdapter(ByteSize)


def own_bytes() -> int:
    """Memory of this process that no file stands behind."""
    return _field(Path("/proc/self/status"), "RssAnon")


def give_back() -> None:
    """Give what this process has freed back to the system: what lies between pieces still in use is kept otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other libraries of C keep little
    if trim is not None:
        trim(0)


def free_bytes() -> int:
    """Memory that programs can still have without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def parse_bytes(text: str) -> int:
    """A size as "8GiB", "500 MB" or "1000000". Raises ``BadSettings``."""
    try:
        return int(_SIZE.validate_python(text))
    except ValidationError:
        raise BadSettings(f"memory {text!r} is no size", remedy="Write it as 8GiB or 500MB") from None


def _field(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, f"Linux writes {name}"
    return int(found[1]) * 1024
