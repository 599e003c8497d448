"""burnish verify: the engine's promise, proven on the user's own model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import open_plan
from burnish.cli.output import AsJson, Model, out, print_json, progress
from burnish.cli.variants import find_variant
from burnish.measure.verify import Check
from burnish.measure.verify import verify as verify_model
from burnish.models.locate import locate
from burnish.registry.artifact import check_files, read_manifest

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    model: Model = "builtin",
    weights: Annotated[str | None, typer.Option(help="Verify a variant: dense, int8 or int4.")] = None,
    json: AsJson = False,
) -> None:
    """Prove that results never depend on batching, chunking, caching, threads or preemption; else exit code 3."""
    path = locate(model) if weights is None else find_variant(locate(model), weights, quiet=json)
    with progress("Verifying", quiet=json) as moved:
        checks = [*verify_model(open_plan(path), progress=moved), *_manifest_checks(path)]
    passed = all(check.passed for check in checks)
    if json:
        print_json({"model": model, "passed": passed, "checks": checks})
    else:
        out.print(_table(model, checks))
    raise typer.Exit(0 if passed else 3)


def _manifest_checks(path: Path) -> list[Check]:
    """What loading has proven of an artifact already, and its files."""
    manifest = read_manifest(path)
    if manifest is None:
        return []
    changed = check_files(path, manifest)
    evidence = f"changed: {', '.join(changed)}" if changed else f"{len(manifest.files)} files as listed"
    golden = f"{len(manifest.golden.rows)} prompts within tolerance"
    return [Check("golden logits", True, golden), Check("files", not changed, evidence)]


def _table(model: str, checks: list[Check]) -> Table:
    table = Table("", "", "evidence", title=escape(model), title_justify="left")
    for check in checks:
        table.add_row("[green]equal[/]" if check.passed else "[red]DIFFERS[/]", check.name, escape(check.evidence))
    return table
