from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Seeded; and models this small only lose by waiting for a second thread."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models made by transformers are kept for the session."""
    return tmp_path_factory.mktemp("oracle")


@pytest.fixture(scope="session")
def stories() -> Path:
    """The trained stories260K model."""
    return shared("models/stories260k")


def shared(path: str) -> Path:
    """A file of the shared data, or a skip."""
    if not (SHARED / path).exists():
        pytest.skip(f"shared data {path!r} is absent")
    return SHARED / path
