"""Every fault keeps its words across a process border and is one line."""

import pickle

import pytest

from burnish.core import errors
from burnish.core.errors import BadRequest, BurnishError, PromptTooLong, nearest

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BurnishError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_survives_pickling(kind: type[BurnishError]) -> None:
    fault = kind("n = 0 is out of range", remedy="Use 1 or more", param="n", code="odd")
    again = pickle.loads(pickle.dumps(fault))
    assert type(again) is kind
    assert str(again) == "n = 0 is out of range. Use 1 or more"
    assert vars(again) == vars(fault)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_place_on_both_edges(kind: type[BurnishError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.exit_code in (1, 2, 3)
    assert kind.retryable == (kind.status in (429, 503))
    assert (kind.exit_code == 2) == (kind.status in (400, 401, 403, 404, 413))


def test_a_fault_without_remedy_says_only_what_happened() -> None:
    assert str(BadRequest("no prompt")) == "no prompt"
    assert BadRequest("no prompt").code is None


def test_a_kind_brings_its_code_unless_another_is_given() -> None:
    assert PromptTooLong("long").code == "context_length_exceeded"
    assert PromptTooLong("long", code="other").code == "other"


def test_the_nearest_word_or_all_of_them() -> None:
    assert nearest("servee", ["up", "serve"]) == "Did you mean 'serve'?"
    assert nearest("SERVE", ["up", "serve"]) == "Did you mean 'serve'?"
    assert nearest("zzz", ["up", "serve"]) == "Known: serve, up"
