"""docs/service.md names every path, parameter, setting and metric there is."""

import re
from dataclasses import fields
from pathlib import Path

from burnish.service.app import ROUTES
from burnish.service.config import ServiceConfig
from burnish.service.meter import Meter
from burnish.service.metrics import exposition
from burnish.service.openai.schema import ChatBody, CompletionBody
from tests.service.double import Double

TEXT = (Path(__file__).parents[2] / "docs/service.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"burnish_\w+", TEXT))


def test_every_path_parameter_and_setting_is_named() -> None:
    named = set(re.findall(r"`(?:GET |POST )?([\w./{}]+)[`:]", TEXT))
    assert {route.path.replace("{model:path}", "{model}") for route in ROUTES} <= named
    assert set(ChatBody.model_fields) | set(CompletionBody.model_fields) <= named
    assert {field.name for field in fields(ServiceConfig)} <= named


def test_metrics_are_those_named() -> None:
    lines = exposition(Meter(Double())).decode().splitlines()
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == NAMED
