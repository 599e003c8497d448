"""Memory of this process."""

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """The most memory this process has had resident since it began.

    From VmHWM, not ``getrusage``: its ru_maxrss is inherited from the process that forked this one.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux writes VmHWM"
    return int(found[1]) * 1024
