from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models made by transformers are kept for the session."""
    return tmp_path_factory.mktemp("plan-oracle")
