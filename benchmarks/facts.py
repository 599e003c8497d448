"""What the builder of a model knows and its worker tells: written beside the model, in every environment."""

import json
from pathlib import Path

FACTS = "facts.json"


def write_facts(folder: Path, *, read_bytes: int) -> None:
    """Note how many bytes of weights one decoded token reads: all of them but the table of embeddings."""
    (folder / FACTS).write_text(json.dumps({"read_bytes": read_bytes}) + "\n", encoding="utf-8")


def read_bytes(folder: Path) -> int:
    """What was noted."""
    return int(json.loads((folder / FACTS).read_text(encoding="utf-8"))["read_bytes"])
