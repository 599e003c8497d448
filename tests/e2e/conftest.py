"""One served model for all tests that leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Running, burnish


@pytest.fixture(scope="session")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """burnish serve on a free port, without keys."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with burnish(log, "serve", tiny_folder, "--port", 0, "--threads", 1) as running:
        yield running


@pytest.fixture
def base_url(server: Running) -> str:
    return server.url
