"""A worker process as the driver sees it: asked one thing at a time, stopped while others compute."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.environments import Unavailable
from benchmarks.peers import ROOT
from benchmarks.protocol import Generate, Generated, Load, Ready, write_order

PATIENCE_S = 900.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Worker:
    """A peer with a model loaded. ``Unavailable`` from any method: it cannot, and why."""

    def __init__(
        self,
        interpreter: str,
        peer: str,
        model: str,
        variant: str,
        threads: int,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        started = time.monotonic()
        self._process = subprocess.Popen(
            [interpreter, "-m", f"benchmarks.{peer}.worker"],
            cwd=ROOT.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | dict(environment or {}),
        )
        order = Load(model=model, variant=variant, threads=threads, started=started)
        try:
            self.ready = Ready(**self._ask(order))
        except BaseException:
            self.close()
            raise
        self.pause()

    def generate(self, order: Generate) -> Generated:
        """Run one order while nobody else computes."""
        self._process.send_signal(signal.SIGCONT)
        try:
            return Generated(**self._ask(order))
        finally:
            self.pause()

    def pause(self) -> None:
        """Stop: an idle worker's spinning threads must not slow the others."""
        self._process.send_signal(signal.SIGSTOP)

    def cpu_s(self) -> float:
        """Seconds of CPU time used so far."""
        return process_cpu_s(self._process.pid)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def _ask(self, order: Load | Generate) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        impatience = threading.Timer(PATIENCE_S, self._process.kill)
        impatience.start()
        try:
            write_order(self._process.stdin, order)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            impatience.cancel()
        if not answer:
            raise Unavailable(f"the worker died: {self._last_complaint()}")
        told: dict[str, Any] = json.loads(answer)
        if "error" in told:
            raise Unavailable(told["error"])
        return told

    def _last_complaint(self) -> str:
        self._process.kill()
        self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def process_cpu_s(pid: int | str) -> float:
    """User and system seconds of a process, all threads."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - read every turn
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
