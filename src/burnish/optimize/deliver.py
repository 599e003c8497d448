"""The chosen variant as a folder of its own: the artifact, why it was chosen, how it is to be served."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

from burnish.core.records import SearchRecord
from burnish.engine.config import EngineConfig
from burnish.measure.intervals import Interval
from burnish.optimize.search import Asked, Outcome
from burnish.registry.artifact import new_folder, read_manifest, write_manifest

ENGINE, REPORT, PAGE = "engine.toml", "report.json", "report.html"


def deliver(
    outcome: Outcome,
    asked: Asked,
    source: Path | None,
    out: Path,
    *,
    config: EngineConfig,
    report: str,
    page: str,
    seed: int,
    data_sha256: str,
) -> None:
    """Copy the chosen weights, with the search in their manifest; ``out`` appears whole or not at all.

    ``config``: the engine's, which the chosen settings change.

    Without a ``source`` only the report and the settings are written.
    """
    chosen = next(one for one in outcome.tried if one.name == outcome.chosen)
    weighed = next(one for one in outcome.weighed if one.name == outcome.chosen)
    assert chosen.loss is not None
    assert chosen.confirmed is not None
    served = chosen.candidate.config(config)
    record = SearchRecord(
        objective=asked.objective,
        max_loss=asked.max_loss,
        limits=tuple(map(str, asked.limits)),
        reason=outcome.reason,
        loss_ratio=(*chosen.loss,),
        confirmed=(*chosen.confirmed,),
        ratio=_bounded(weighed.ratio),
        figures=weighed.figures,
        parent_figures=outcome.own.figures,
        keys=served.keys,
        prefill_share=served.prefill_share,
        max_running=served.max_running,
        threads=served.threads,
        lookup=served.lookup,
        draft=served.draft,
        num_tried=len(outcome.tried),
        seed=seed,
        data_sha256=data_sha256,
    )
    with new_folder(out) as staging:
        if source is not None and source.is_dir():
            shutil.copytree(source, staging, dirs_exist_ok=True)
        elif source is not None:
            shutil.copy2(source, staging)
        manifest = read_manifest(staging)
        if manifest is not None:
            write_manifest(staging, replace(manifest, search=record))
        (staging / ENGINE).write_text(_engine(record, drafted=config.draft is not None), encoding="utf-8")
        (staging / REPORT).write_text(report, encoding="utf-8")
        (staging / PAGE).write_text(page, encoding="utf-8")


def _bounded(found: Interval) -> tuple[float, float | None, float | None]:
    return (found.value, None, None) if math.isinf(found.high) else (*found,)


def _engine(record: SearchRecord, *, drafted: bool) -> str:
    """Settings as ``burnish serve --settings`` takes them. ``drafted``: by a model, in the settings they stand over."""
    lines = [f'keys = "{record.keys}"', f"prefill_share = {record.prefill_share}"]
    lines += [f"max_running = {record.max_running}"]
    lines += [f"threads = {record.threads}"] if record.threads is not None else []
    lines += [f"lookup = {str(record.lookup).lower()}"]
    lines += [f"draft = {json.dumps(record.draft or '')}"] if record.draft is not None or drafted else []
    return "\n".join(["[engine]", *lines, ""])
