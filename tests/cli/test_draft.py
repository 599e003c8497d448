"""--draft: who writes drafts; answers stay the same."""

import pytest

from burnish.cli.options import drafting
from tests.cli.conftest import Run


@pytest.mark.parametrize("draft", ["ngram", "auto", "builtin-draft", "off"])
def test_the_text_is_the_same_with_any_draft(burnish: Run, draft: str) -> None:
    words = (
        "generate",
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        24,
        "--temperature",
        0.7,
        "--seed",
        3,
        "--json",
    )
    assert burnish(*words, "--draft", draft).json == burnish(*words).json


def test_a_draft_that_does_not_fit_is_refused(burnish: Run, tiny_folder: str) -> None:
    refused = burnish("generate", "builtin", "--draft", tiny_folder)
    assert refused.code == 2
    assert "the draft model knows 259 tokens, the model 4096" in " ".join(refused.err.split())
    assert burnish("generate", "builtin", "--draft", "nowhere").code != 0


def test_words_stand_for_settings() -> None:
    assert drafting(None, "builtin") == {}
    assert drafting("auto", "builtin") == {"lookup": True, "draft": "builtin-draft"}
    assert drafting("auto", "./mine") == {"lookup": True, "draft": None}
    assert drafting("./small", "./mine") == {"lookup": False, "draft": "./small"}
