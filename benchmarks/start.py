"""How long burnish takes from the start of its process to a first token, from an artifact on disk."""

import tempfile

from benchmarks.environments import folder_bytes, python, tell
from benchmarks.models import artifact
from benchmarks.peers import OURS, Shape
from benchmarks.results import Start
from benchmarks.worker import Worker

WEIGHTS = "int4-g32"


def measure_start(shape: Shape, *, threads: int, repeats: int) -> Start:
    """Once with an empty cache, then ``repeats`` times with what that start left there.

    Raises ``Unavailable`` when the artifact cannot be made or loaded.
    """
    path = artifact(shape, WEIGHTS)
    with tempfile.TemporaryDirectory() as cache:
        starts = []
        for _ in range(1 + repeats):
            worker = Worker(python(OURS), OURS, str(path), WEIGHTS, threads, environment={"XDG_CACHE_HOME": cache})
            starts.append(worker.ready)
            worker.close()
            tell(f"{shape.name} start {len(starts)}: {worker.ready.ready_s:.2f} s")
    return Start(
        shape=shape.name,
        weights=WEIGHTS,
        cold_s=starts[0].ready_s,
        warm_s=[ready.ready_s for ready in starts[1:]],
        artifact_bytes=folder_bytes(path),
        peak_rss_bytes=starts[-1].peak_rss_bytes,
    )
