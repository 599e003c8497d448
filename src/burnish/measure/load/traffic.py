"""Recorded traffic: when requests came, how long they were, and which of their prompts began alike.

Two public formats are read, each told by its name: the Azure LLM inference traces (.csv with the columns TIMESTAMP,
ContextTokens, GeneratedTokens; Patel et al., Splitwise, ISCA 2024), the Mooncake traces (.jsonl with timestamp,
input_length, output_length, hash_ids; Qin et al., FAST 2025). ServeGen's profiles are in ``servegen``.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from burnish.core.errors import BadSettings, NotFound

PREFIX_BLOCK = 512
"""Tokens of a prompt that share one prefix id, as Mooncake hashes them."""
_AZURE = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request: seconds since the traffic began, tokens in, tokens out.

    Two prompts whose ``prefix_ids`` begin alike are the same in as many blocks of ``block_tokens``.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_ids: tuple[int, ...] = ()
    block_tokens: int = PREFIX_BLOCK


def read_recorded(path: Path) -> list[Arrival]:
    """The requests of an Azure or a Mooncake trace, the first at 0 s.

    Raises ``NotFound``; ``BadSettings`` for another kind of file, a broken line (its number named) and no requests.
    """
    readers: dict[str, Callable[[Path, str], list[Arrival]]] = {".csv": _azure, ".jsonl": _mooncake}
    read = readers.get(path.suffix)
    if read is None:
        raise BadSettings(
            f"trace {str(path)!r} is of no known kind",
            remedy="Give an Azure .csv, a Mooncake .jsonl, or a ServeGen *-trace.csv or folder",
        )
    found = read(path, read_text(path))
    if not found:
        raise BadSettings(f"trace {str(path)!r} has no requests", remedy="Give one with a line for each request")
    for number, (one, other) in enumerate(pairwise(found), 2):
        if other.at_s < one.at_s:
            raise BadSettings(
                f"request {number} of {str(path)!r} comes {one.at_s - other.at_s:g} s before the one above it",
                remedy="Sort the trace by time",
            )
    return [replace(arrival, at_s=arrival.at_s - found[0].at_s) for arrival in found]


def read_text(path: Path) -> str:
    """The text of a file of a trace. Raises ``NotFound`` and ``BadSettings``."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"trace {str(path)!r} does not exist", remedy="Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"trace {str(path)!r} cannot be read: {error}", remedy="Give a UTF-8 text file") from None


def broken_line(path: Path, number: int, line: str, wanted: str) -> BadSettings:
    """The fault of a line that is not what it should be."""
    shown = line if len(line) <= 60 else f"{line[:57]}..."
    return BadSettings(f"line {number} of {str(path)!r} is broken: {shown!r}", remedy=f"It should be {wanted}")


def _azure(path: Path, text: str) -> list[Arrival]:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    if header and header != _AZURE:
        raise broken_line(path, 1, ",".join(header), f"the header {','.join(_AZURE)}")
    found = []
    for row in rows:
        try:
            moment, prompt, output = row
            at_s = (datetime.fromisoformat(moment) - datetime(2000, 1, 1)).total_seconds()
            found.append(_arrival(at_s, int(prompt), int(output)))
        except (ValueError, TypeError):
            raise broken_line(path, rows.line_num, ",".join(row), "a time, tokens in and tokens out") from None
    return found


def _mooncake(path: Path, text: str) -> list[Arrival]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_mooncake_row(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError):
            wanted = "a JSON object with timestamp, input_length, output_length and one of hash_ids per 512 tokens"
            raise broken_line(path, number, line, wanted) from None
    return found


def _mooncake_row(row: Any) -> Arrival:
    arrival = _arrival(float(row["timestamp"]) / 1e3, int(row["input_length"]), int(row["output_length"]))
    ids = tuple(int(i) for i in row["hash_ids"])
    if len(ids) != -(-arrival.prompt_tokens // PREFIX_BLOCK):
        raise ValueError
    return replace(arrival, prefix_ids=ids)


def _arrival(at_s: float, prompt_tokens: int, output_tokens: int) -> Arrival:
    """Raises ``ValueError`` for what no request can be."""
    if not (abs(at_s) < float("inf") and prompt_tokens > 0 and output_tokens > 0):
        raise ValueError
    return Arrival(at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
