"""An environment per peer, from its requirements.txt, made once and again when that file changes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import OURS, ROOT

FOLDER = ROOT / ".envs"
# llama.cpp is compiled for this very machine; the list of "convert" is complete, and one package of it would ask for
# another that no conversion uses
PIP_OPTIONS = {"llama_cpp": ("--no-binary", "llama-cpp-python"), "convert": ("--no-deps",)}
PIP_ENVIRONMENT = {"llama_cpp": {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}}


class Unavailable(Exception):
    """A peer cannot be measured, and why."""


def python(name: str) -> str:
    """The interpreter of an environment, which is made when needed; burnish's is the one that runs.

    Raises ``Unavailable`` when it cannot be made.
    """
    if name == OURS:
        return sys.executable
    folder, requirements = FOLDER / name, ROOT / name / "requirements.txt"
    stamp, wanted = folder / ".ready", hashlib.sha256(requirements.read_bytes()).hexdigest()
    interpreter = str(folder / "bin" / "python")
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != wanted:
        tell(f"installing {name}")
        run([sys.executable, "-m", "venv", str(folder)])
        command = [interpreter, "-m", "pip", "install", "--quiet", *PIP_OPTIONS.get(name, ())]
        run([*command, "-r", str(requirements)], environment=PIP_ENVIRONMENT.get(name, {}))
        stamp.write_text(wanted, encoding="ascii")
    return interpreter


def run(command: list[str], *, environment: dict[str, str] | None = None) -> None:
    """Run a command to its end. Raises ``Unavailable`` with the last line it complained."""
    done = subprocess.run(
        ["nice", "-n", "10", *command],
        cwd=ROOT.parent,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        complaints = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise Unavailable(complaints[-1].strip())


def tell(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
