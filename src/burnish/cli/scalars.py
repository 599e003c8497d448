"""Charts for TensorBoard: losses of what trains, step by step, and errors of layers, block by block."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord


class Scalars:
    """Writes to a folder. Nothing lies there before the first scalar."""

    def __init__(self, folder: Path) -> None:
        """Raise ``BadSettings`` when TensorBoard is not installed, or the folder is none."""
        if find_spec("tensorboard") is None:
            raise BadSettings("--tensorboard needs a package", remedy="Run: pip install 'burnish[tensorboard]'")
        if folder.exists() and not folder.is_dir():
            raise BadSettings(f"--tensorboard {str(folder)!r} is no folder", remedy="Name a folder")
        self._folder = folder
        self._writer: Any = None

    def __call__(self, name: str, value: float, step: int) -> None:
        """One point of the chart of that name."""
        if self._writer is None:
            self._writer = _open(self._folder)
        self._writer.add_scalar(name, value, step)

    def layers(self, records: Iterable[LayerRecord]) -> None:
        """A chart for each error of each kind of layer, over the blocks; for each pass, where several changed it."""
        seen = Counter[str]()
        for record in records:
            seen[record.name] += 1
            kind, block = _place(record.name)
            kind += f"/pass_{seen[record.name]}" if seen[record.name] > 1 else ""
            self(f"relative_error/{kind}", record.relative_error, block)
            self(f"bits/{kind}", record.bits, block)
            if record.output_error is not None:
                self(f"output_error/{kind}", record.output_error, block)

    def close(self) -> None:
        """Write what is held back."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def open_scalars(folder: Path | None) -> Iterator[Scalars | None]:
    """Charts in that folder, None for none. Raises ``BadSettings`` as ``Scalars``."""
    scalars = None if folder is None else Scalars(folder)
    try:
        yield scalars
    finally:
        if scalars is not None:
            scalars.close()


def _open(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        raise BadSettings(f"--tensorboard {str(folder)!r} cannot be written: {error.strerror}") from None


def _place(name: str) -> tuple[str, int]:
    """Of "layers.3.mlp.up_proj": what it is in its block, and which block; 0 for layers outside blocks."""
    found = re.search(r"\.(\d+)\.", name)
    return (name, 0) if found is None else (name[: found.start()] + "." + name[found.end() :], int(found[1]))
