"""What commands print: one JSON object on stdout, or tables for people; progress always on stderr."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from burnish.measure.intervals import Interval

out = Console()
err = Console(stderr=True)

Model = Annotated[
    str,
    typer.Argument(help="A model folder, a llama2.c .bin file, a .gguf file, or [bold]builtin[/].", show_default=True),
]
Moved = Callable[[int, int], None]
"""Moves a progress bar: (done, total)"""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def as_plain(value: Any) -> Any:
    """Dataclasses and named tuples as dicts, paths as strings, for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):
        return {name: as_plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(as_plain(value), ensure_ascii=False))


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Moved]:
    """A progress bar on stderr; yields a function (done, total) that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def human_bytes(count: float) -> str:
    """Bytes with a binary unit: 11.6 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def human_count(count: float) -> str:
    """A count with a decimal unit: 5.8 M."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.2f} G"


def add_intervals(table: Table, rows: Iterable[tuple[str, Interval | None]], *, digits: int = 4) -> None:
    """A row for every figure that was measured: its name, its value, its 95 % interval."""
    for name, interval in rows:
        if interval is not None:
            low, high = f"{interval.low:.{digits}f}", f"{interval.high:.{digits}f}"
            table.add_row(name, f"{interval.value:.{digits}f}", f"{low} - {high}")
