"""The rules of a diagnosis: each looks at a scene and says what it finds, by what figures. One function a rule."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from burnish.engine.config import token_bytes
from burnish.measure.diagnose.predict import Storage, storage_of
from burnish.measure.diagnose.scene import OperationTime, Scene

Bottleneck = Literal["memory bandwidth", "compute", "batching", "kv memory", "python", "parallelism", "padding"]
LEAST_GAIN = 0.02  # what is below is not worth a line
RECIPES = {"int8": "int8", "int4-g128": "int4-gptq-g128"}
NARROWER = (Storage("int8"), Storage("int4", 128))
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "int8": 8, "sparse8": 5, "int4": 4}
PRODUCTS = ("qkv", "out", "up", "down", "head")
FULL = 0.95  # of the blocks in use: the pool is what limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What holds the model back, and one thing that would help."""

    bottleneck: Bottleneck
    evidence: str
    limit_share: float | None  # of the limit that is reached; None where the limit is no rate
    remedy: str
    gain: float
    is_bound: bool = False  # the gain is not predicted: it is at most that much

    @property
    def weight(self) -> float:
        """What findings are ordered by; of a gain that is only bounded half is expected."""
        return self.gain / 2 if self.is_bound else self.gain


Rule = Callable[[Scene], list[Finding]]


def weights_stored_wide(scene: Scene) -> list[Finding]:
    """Weights that fewer bits would make faster: because they are read, or because they are multiplied."""
    products = [time for time in scene.operations if time.place.role in PRODUCTS]
    seconds, limit = sum(time.seconds for time in products), sum(time.limit_s for time in products)
    reading = sum(time.reading_s for time in products)
    is_read = 2 * reading >= seconds
    evidence = _reading(scene, products) if is_read else _computing(scene, products)
    bits = min(_BITS[storage_of(product.weight).kind] for _, product in scene.slimmed)
    return _worth(
        Finding(
            bottleneck="memory bandwidth" if is_read else "compute",
            evidence=evidence,
            limit_share=limit / seconds,
            remedy=f"store weights as {storage.name}: burnish compress --recipe {RECIPES[storage.name]}",
            gain=_gain(scene, scene.seconds_stored(storage)),
        )
        for storage in NARROWER
        if _BITS[storage.kind] < bits
    )


def model_is_large(scene: Scene) -> list[Finding]:
    """Products that only a smaller model makes faster, once weights have few bits."""
    if any(_BITS[storage_of(product.weight).kind] > 8 for _, product in scene.slimmed):
        return []
    products = [time for time in scene.operations if time.place.role in PRODUCTS]
    seconds = sum(time.seconds for time in products)
    reading = sum(time.reading_s for time in products)
    return _worth(
        [
            Finding(
                bottleneck="memory bandwidth" if 2 * reading >= seconds else "compute",
                evidence=f"products take {seconds / scene.observed.seconds:.0%} of the time in {scene.plan.weights}",
                limit_share=sum(time.limit_s for time in products) / seconds,
                remedy="use a model of 25 % less: burnish compress --recipe shrink-25-distill",
                gain=_gain(scene, scene.observed.seconds - seconds / 4),
            )
        ]
    )


def requests_wait(scene: Scene) -> list[Finding]:
    """Requests that wait while fewer are decoded than the engine could."""
    seen = scene.observed
    allowed, wanted = seen.config.max_running, seen.situation.concurrency
    if allowed >= wanted:
        return []
    return _worth(
        [
            Finding(
                bottleneck="batching",
                evidence=f"{allowed} of {wanted} requests decoded together; each waits {mean(seen.queue_s):.2f} s",
                limit_share=None,
                remedy=f"set max_running = {wanted} in [engine]",
                gain=_gain(scene, scene.seconds_together(wanted)),
            )
        ]
    )


def keys_do_not_fit(scene: Scene) -> list[Finding]:
    """Requests that wait for blocks, or lose theirs and are computed again."""
    seen = scene.observed
    assert seen.config.num_blocks is not None
    could = min(seen.situation.concurrency, seen.config.max_running)
    is_full = seen.peak_blocks >= FULL * seen.config.num_blocks
    if not is_full or (seen.mean_running > FULL * could and not seen.num_preemptions):
        return []
    evidence = (
        f"{seen.config.num_blocks} blocks hold {seen.mean_running:.1f} of {could} requests, "
        f"{seen.num_preemptions} lost their keys and were computed again"
    )
    again = _recomputed_s(scene)
    longest = max(sum(lengths) for lengths in seen.situation.requests)
    blocks = could * -(-longest // seen.config.block_size)
    found = [
        Finding(
            bottleneck="kv memory",
            evidence=evidence,
            limit_share=seen.peak_blocks / seen.config.num_blocks,
            remedy=f"set num_blocks = {blocks} in [engine], {_mebibytes(scene, blocks):.0f} MiB",
            gain=_gain(scene, scene.seconds_together(could) - again),
        )
    ]
    if seen.config.keys != "int8":
        shape = scene.plan.shape
        sizes = [
            token_bytes(shape.num_layers, shape.num_kv_heads, shape.head_dim, keys)
            for keys in (seen.config.keys, "int8")
        ]
        running = min(could, seen.mean_running * sizes[0] / sizes[1])
        found.append(
            Finding(
                bottleneck="kv memory",
                evidence=evidence,
                limit_share=seen.peak_blocks / seen.config.num_blocks,
                remedy='store keys and values as int8: keys = "int8" in [engine]',
                gain=_gain(scene, scene.seconds_together(running) - again * (running - seen.mean_running) / could),
            )
        )
    return _worth(found)


def python_takes_long(scene: Scene) -> list[Finding]:
    """Steps so short that what surrounds them counts."""
    share = scene.observed.python_share
    return _worth(
        [
            Finding(
                bottleneck="python",
                evidence=f"{share:.0%} of the time is scheduling, sampling and text, outside the executor",
                limit_share=1 - share,
                remedy="a larger model costs little more here; more requests at a time share a step",
                gain=_gain(scene, scene.observed.seconds * (1 - share)),
                is_bound=True,
            )
        ]
    )


def cores_are_idle(scene: Scene) -> list[Finding]:
    """Fewer threads than cores."""
    own, every = scene.ceilings, scene.all_cores
    if own.threads >= every.threads:
        return []
    saved = 0.0
    for time in scene.operations:
        reading = own.read_rate(scene.model_bytes) / every.read_rate(scene.model_bytes)
        computing = own.product_rate("int8") / every.product_rate("int8")
        saved += time.reading_s * (1 - reading) + (time.seconds - time.reading_s) * (1 - computing)
    return _worth(
        [
            Finding(
                bottleneck="parallelism",
                evidence=f"{own.threads} of {every.threads} cores are used",
                limit_share=own.threads / every.threads,
                remedy=f"leave --threads out, or set threads = {every.threads} in [engine]",
                gain=_gain(scene, scene.observed.seconds - saved),
            )
        ]
    )


def lengths_vary(scene: Scene) -> list[Finding]:
    """What padding to the longest would cost; this engine computes none, so nothing is gained."""
    requests = scene.observed.situation.requests
    longest = max(lengths.prompt_tokens for lengths in requests)
    share = 1 - sum(lengths.prompt_tokens for lengths in requests) / (longest * len(requests))
    evidence = f"no row is padding; prompts padded to the longest would be {share:.0%} padding"
    return [Finding(bottleneck="padding", evidence=evidence, limit_share=1.0, remedy="nothing is to be done", gain=0.0)]


RULES: tuple[Rule, ...] = (
    weights_stored_wide,
    model_is_large,
    requests_wait,
    keys_do_not_fit,
    python_takes_long,
    cores_are_idle,
    lengths_vary,
)


def _worth(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.gain >= LEAST_GAIN]


def _gain(scene: Scene, seconds: float) -> float:
    return scene.observed.seconds / seconds - 1


def _reading(scene: Scene, products: list[OperationTime]) -> str:
    """How fast weights are read, beside how fast memory of that size is."""
    seconds = sum(time.reading_s for time in products)
    read = sum(time.work.weight_bytes * time.reading_s / time.seconds for time in products if time.reading_s)
    rate, limit = read / seconds, scene.ceilings.read_rate(scene.model_bytes)
    share = seconds / scene.observed.seconds
    return f"reading weights takes {share:.0%} of the time: {rate / 1e9:.1f} of {limit / 1e9:.1f} GB/s"


def _computing(scene: Scene, products: list[OperationTime]) -> str:
    """How many products are computed a second."""
    computed = [time for time in products if time.seconds > time.reading_s]
    seconds = sum(time.seconds for time in computed)
    rate = sum(time.work.products for time in computed) / seconds
    share = seconds / scene.observed.seconds
    return f"products take {share:.0%} of the time: {rate / 1e9:.0f} G a second in {scene.plan.weights}"


def _recomputed_s(scene: Scene) -> float:
    """Seconds spent on tokens that had been computed before."""
    seen = scene.observed
    computed = sum(record.prefill_tokens for record in seen.profile.steps)
    asked = sum(lengths.prompt_tokens for lengths in seen.situation.requests)
    seconds = sum(record.seconds * record.prefill_share for record in seen.profile.steps)
    return seconds * max(0, computed - asked) / max(1, computed)


def _mebibytes(scene: Scene, blocks: int) -> float:
    shape, config = scene.plan.shape, scene.observed.config
    of_token = token_bytes(shape.num_layers, shape.num_kv_heads, shape.head_dim, config.keys)
    return blocks * config.block_size * of_token / 2**20
