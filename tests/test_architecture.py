"""The import table of the house: who may import whom, no circles, no torch on the front."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import burnish

SOURCE = Path(burnish.__file__).parent
EVERYTHING = {path.stem for path in SOURCE.iterdir() if not path.name.startswith("_")}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "kernels": set(),
    "models": {"kernels"},
    "plan": {"models", "kernels"},
    "parallel": {"models", "plan"},
    "compress": {"models", "kernels"},
    "engine": {"models", "plan", "parallel", "kernels"},
    "runner": {"models", "plan", "kernels"},
    "measure": {"models", "engine", "runner", "plan", "kernels"},
    "optimize": {"compress", "measure", "registry", "models", "engine", "runner"},
    "registry": set(),
    "service": {"registry"},
    "channels": {"registry"},
    "dashboard": {"registry"},
    "assemble": {
        *("engine", "runner", "parallel", "plan", "models", "registry"),
        *("service", "channels", "dashboard"),
    },
    "scale": {"assemble"},
    "llm": {"assemble", "engine", "models"},  # the Python API: an engine in the caller's process
    "builtin": set(),
    "cli": EVERYTHING,
}
WITHOUT_TORCH = ("core", "registry", "service", "channels", "dashboard")
# what the HTTP process loads beside its own rooms
FRONT_MODULES = ("burnish", "burnish.assemble", "burnish.cli.main", "burnish.cli.serve", "burnish.engine.client")
FORBIDDEN_WORDS = ("rank", "world_size", "all_reduce", "quant", "scheduler")


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(tree: ast.AST, name: str) -> set[str]:
    """Modules of this package that the statements below ``tree`` import."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            module = node.module or ""
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in MODULES else module for a in node.names}
    return {module for module in found if module.split(".")[0] == "burnish"}


def room(module: str) -> str | None:
    """The room a module lies in; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def when_loaded(tree: ast.Module) -> ast.Module:
    """The module without functions' bodies and without type-only imports: what runs at import."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.If | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    stripped = Strip().visit(tree)
    assert isinstance(stripped, ast.Module)
    return stripped


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_table(name: str) -> None:
    here = room(name)
    if here is None:
        return
    assert here in MAY_IMPORT, f"room {here} is not in the table"
    allowed = MAY_IMPORT[here] | {here, "core"}
    for module in imported(ast.parse(MODULES[name].read_text()), name):
        there = room(module)
        assert there is None or there in allowed, f"{name} imports {module}"


def test_the_table_itself_has_no_circle() -> None:
    rooms = {name: allowed - {"cli"} for name, allowed in MAY_IMPORT.items() if name != "cli"}
    assert list(TopologicalSorter(rooms).static_order())


def test_no_module_is_imported_in_a_circle() -> None:
    graph = {
        name: imported(when_loaded(ast.parse(path.read_text())), name) - {name, "burnish"}
        for name, path in MODULES.items()
    }
    try:
        assert list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_front_loads_no_torch() -> None:
    modules = [name for name in MODULES if room(name) in WITHOUT_TORCH] + list(FRONT_MODULES)
    code = "\n".join(
        [
            "import importlib, sys",
            "sys.modules['torch'] = None",  # any import of it raises
            *(f"importlib.import_module({name!r})" for name in modules),
        ]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_architecture_files_speak_of_nothing_but_arithmetic() -> None:
    files = [SOURCE / "models" / "decoder.py", *(SOURCE / "models" / "layers").glob("*.py")]
    for path in files:
        text = path.read_text().lower()
        assert not [word for word in FORBIDDEN_WORDS if word in text], path


def test_the_engines_step_fits_on_a_screen() -> None:
    tree = ast.parse((SOURCE / "engine" / "engine.py").read_text())
    [step] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "step"]
    assert (step.end_lineno or 0) - step.lineno + 1 <= 15


def test_no_file_swallows_every_feature() -> None:
    assert not [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 500]
    assert not [name for name in MODULES if {"manager", "handler", "helper", "utils"} & set(name.split("."))]
