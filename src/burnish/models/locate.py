"""From what a user calls a model to the path it lies at. Loads no torch."""

from pathlib import Path

from burnish.core.errors import NotFound

BUILTIN = {"builtin": "stories", "builtin-draft": "draft"}
REMEDY = "Name a model folder, a llama2.c .bin file, a .gguf file, or 'builtin'"


def held_out_text() -> Path:
    """Stories of Oscar Wilde, kept out of the built-in models' training: what variants are judged by."""
    return Path(__file__).parents[1] / "builtin" / "heldout.txt"


def rooted(model: str) -> str:
    """A name that stands for the same model wherever one is. Raises as ``locate``."""
    path = locate(model)
    return model if model in BUILTIN else str(path.resolve())


def locate(model: str) -> Path:
    """The folder or file of ``model``: "builtin", "builtin-draft", a folder, a llama2.c .bin or a .gguf file.

    Raises ``NotFound`` when there is nothing there.
    """
    if model in BUILTIN:
        folder = Path(__file__).parents[1] / "builtin" / BUILTIN[model]
        if not folder.is_dir():
            raise NotFound(f"this installation has no model {model!r}", remedy="Install burnish again")
        return folder
    path = Path(model).expanduser()
    try:
        is_there = path.is_dir() or path.is_file()
    except (OSError, ValueError):  # too long, or a null byte
        is_there = False
    if not model or not is_there:
        raise NotFound(f"model {model[:200]!r} does not exist", remedy=REMEDY)
    return path
