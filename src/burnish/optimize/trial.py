"""One measurement in a process of its own: how fast a model serves a situation, or how well it predicts a text.

The process gets its order as an argument and prints one line of JSON. It is watched: more memory or time than allowed
ends it, so limits hold whatever it does.
"""

import ctypes
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from burnish.core import errors
from burnish.core.errors import BurnishError, OutOfMemory, OutOfTime
from burnish.core.profile_summary import summarize
from burnish.core.types import KeyKind
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Plan
from burnish.measure.diagnose.observe import Observed, Situation, observe
from burnish.measure.memory import peak_rss_bytes

Open = Callable[[str], Plan]
Judge = Callable[["Reading"], int]
"""Writes the losses of a reading where it says and returns how many there are"""

POLL_S = 0.05
LEAST_S = 1.0  # of serving in a trial: a situation that is shorter is served again and again
PR_SET_PDEATHSIG = 1  # prctl(2)
_NO_MEMORY = ("MemoryError", "bad_alloc", "allocate memory")  # what Python, C++ and torch say


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A model that is to serve a situation.

    Prompts are stretches of ``text``, token ids in a file as numpy writes them; without one they are random.
    """

    model: str
    situation: Situation
    text: str | None = None
    config: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A model that is to read a text: the losses of its tokens go to ``out``, as numpy writes them."""

    model: str
    text: str
    max_tokens: int
    out: str
    keys: KeyKind = "f16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What serving came to, once or again and again. Times in seconds, of every request."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    e2e_s: tuple[float, ...]
    seconds: float
    prefill_s: float  # computing prompts
    decode_s: float  # writing
    input_tokens: int
    output_tokens: int
    peak_rss_bytes: int

    def figures(self) -> dict[str, float]:
        """Percentiles in milliseconds, tokens written per second of computing, memory."""
        found = {
            f"p{share}_{name}_ms": float(np.percentile(values, share)) * 1e3
            for name, values in (("ttft", self.ttft_s), ("tpot", self.tpot_s or (0.0,)), ("e2e", self.e2e_s))
            for share in (50, 95)
        }
        found["tokens_per_s"] = self.output_tokens / (self.prefill_s + self.decode_s)
        found["memory_mb"] = self.peak_rss_bytes / 1e6
        return found


_ORDER: TypeAdapter[Serving | Reading] = TypeAdapter(Serving | Reading)
_TRIAL = TypeAdapter(Trial)


def serve(order: Serving, module: str, *, timeout_s: float, memory_bytes: int) -> Trial:
    """Serve in a fresh process that runs ``module``. Raises as ``run_watched`` and what serving raises there."""
    return _TRIAL.validate_python(_told(order, module, timeout_s, memory_bytes))


def read(order: Reading, module: str, *, timeout_s: float, memory_bytes: int) -> int:
    """Read in a fresh process that runs ``module``; how many tokens were scored. Raises as ``serve``."""
    return int(_told(order, module, timeout_s, memory_bytes))


def _told(order: Serving | Reading, module: str, timeout_s: float, memory_bytes: int) -> Any:
    command = [sys.executable, "-m", module, json.dumps(asdict(order))]
    told = json.loads(run_watched(command, timeout_s=timeout_s, memory_bytes=memory_bytes).splitlines()[-1])
    if "error" in told:
        raise getattr(errors, told["error"], BurnishError)(told["message"], remedy=told["remedy"])
    return told["result"]


def run_watched(command: Sequence[str], *, timeout_s: float, memory_bytes: int) -> str:
    """What a command prints. Raises ``OutOfTime``, ``OutOfMemory``, and ``BurnishError`` when it fails."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen(  # noqa: S603 - our own programs
            command,
            stdout=out,
            stderr=complaints,
            text=True,
            preexec_fn=_dies_with_parent,  # noqa: PLW1509 - no threads
        )
        try:
            _limit(child.pid, memory_bytes)
            while child.poll() is None:
                if time.monotonic() - begun > timeout_s:
                    raise OutOfTime(f"a measurement took longer than {timeout_s:.0f} s", remedy="Allow more time")
                if _resident(child.pid) > memory_bytes:
                    raise _too_much(memory_bytes)
                time.sleep(POLL_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        for file in (out, complaints):
            file.seek(0)
        printed = out.read()
        if child.returncode:
            last = complaints.read().strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
            if any(sign in last[0] for sign in _NO_MEMORY):
                raise _too_much(memory_bytes)
            raise BurnishError(last[0].removeprefix("burnish: "))
        return printed


def _dies_with_parent() -> None:
    """Let the kernel end this process when the one that began it is killed: nobody else would."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(pid: int, memory_bytes: int) -> None:
    """Let the kernel refuse a process more memory of its own."""
    with suppress(ProcessLookupError):  # it has ended already
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _too_much(memory_bytes: int) -> OutOfMemory:
    return OutOfMemory(f"a measurement took more than {memory_bytes / 2**20:.0f} MiB", remedy="Allow more memory")


def _resident(pid: int) -> int:
    """Bytes of a process that no file stands behind; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(found.split()[1]) * 1024


def run_child(open_model: Open, judge: Judge) -> None:
    """The measuring process: its own edge, where every known fault becomes a line."""
    order = _ORDER.validate_json(sys.argv[1])
    try:
        told: dict[str, Any] = {"result": judge(order) if isinstance(order, Reading) else _serve(order, open_model)}
    except BurnishError as error:
        told = {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
    print(json.dumps(told))


def _serve(order: Serving, open_model: Open) -> dict[str, Any]:
    plan, text = open_model(order.model), [] if order.text is None else np.load(order.text).tolist()
    draft = open_model(order.config.draft) if order.config.draft else None
    runs = list[Observed]()
    while not runs or sum(run.seconds for run in runs) < LEAST_S:
        runs.append(observe(plan, order.config, order.situation, text=text, draft=draft))
    served, summaries = [one for run in runs for one in run.served], [summarize(run.profile) for run in runs]
    trial = Trial(
        ttft_s=tuple(one.ttft_s for one in served),
        tpot_s=tuple(one.tpot_s for one in served if one.tpot_s is not None),
        e2e_s=tuple(one.last_s - one.due_s for one in served),
        seconds=sum(run.seconds for run in runs),
        prefill_s=sum(one.prefill_s for one in summaries),
        decode_s=sum(one.decode_s for one in summaries),
        input_tokens=sum(one.prefill_tokens for one in summaries),
        output_tokens=sum(run.output_tokens for run in runs),
        peak_rss_bytes=peak_rss_bytes(),
    )
    return asdict(trial)
