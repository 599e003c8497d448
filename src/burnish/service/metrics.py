"""GET /metrics: the meter and the engine's load as Prometheus text."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response

from burnish.core.telemetry import Counter, Gauge, Histogram
from burnish.core.types import Load
from burnish.service.front import FrontOf
from burnish.service.meter import Meter


class MeterCollector(Collector):
    """Turns a meter and its engine's load into metric families at the moment of the scrape."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        """Every family, once."""
        load = self._meter.load()
        yield from map(_counter, self._meter.counters)
        yield from map(_counter, _load_counters(load))
        yield from map(_histogram, self._meter.histograms)
        yield _kept_drafts(load)
        yield from _gauges(_load_gauges(self._meter, load))


def exposition(meter: Meter) -> bytes:
    """The metrics in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MeterCollector(meter))
    return generate_latest(registry)


async def scrape(front: FrontOf) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(exposition(front.served), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _load_counters(load: Load) -> Iterator[Counter]:
    for name, meaning, value in (
        ("burnish_preemptions", "Sequences put back into the queue for want of blocks", load.preemptions),
        ("burnish_prefix_queried_tokens", "Prompt tokens looked up in the prefix cache", load.prefix_queried_tokens),
        ("burnish_prefix_hit_tokens", "Prompt tokens found in the prefix cache", load.prefix_hit_tokens),
        ("burnish_engine_steps", "Steps of the engine", load.steps),
        ("burnish_corrupted_requests", "Requests that failed because logits were no numbers", load.not_numbers),
        ("burnish_draft_tokens", "Tokens that were drafted", load.drafts),
    ):
        counter = Counter(name, meaning)
        counter.add(value)
        yield counter


def _load_gauges(meter: Meter, load: Load) -> Iterator[Gauge]:
    yield Gauge("burnish_requests_waiting", "Requests not yet run", meter.waiting)
    yield Gauge("burnish_requests_running", "Requests run at least once and not finished", meter.running)
    yield Gauge("burnish_engine_sequences", "Sequences in the engine", load.waiting, {"state": "waiting"})
    yield Gauge("burnish_engine_sequences", "Sequences in the engine", load.running, {"state": "running"})
    yield Gauge("burnish_draft_saved_seconds", "Seconds that drafts saved, by measured costs", load.saved_s)
    for state, blocks in (("free", load.free_blocks), ("cached", load.cached_blocks), ("used", load.used_blocks)):
        yield Gauge("burnish_kv_blocks", "Blocks of the KV pool", blocks, {"state": state})
    usage = load.used_blocks / load.total_blocks if load.total_blocks else 0.0
    yield Gauge("burnish_kv_usage_ratio", "Share of the KV pool held by running sequences", usage)


def _kept_drafts(load: Load) -> Metric:
    family = CounterMetricFamily(
        "burnish_draft_tokens_kept", "Drafts that were right, by their place", labels=["place"]
    )
    for place, count in enumerate(load.kept_drafts, 1):
        family.add_metric([str(place)], count)
    return family


def _counter(counter: Counter) -> Metric:
    family = CounterMetricFamily(counter.name, counter.help, labels=[counter.label] if counter.label else [])
    for value, amount in counter.values.items():
        family.add_metric([value] if counter.label else [], amount)
    return family


def _histogram(histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.help)
    family.add_metric([], list(histogram.cumulative()), histogram.sum)
    return family


def _gauges(gauges: Iterator[Gauge]) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for gauge in gauges:
        family = families.setdefault(gauge.name, GaugeMetricFamily(gauge.name, gauge.help, labels=list(gauge.labels)))
        family.add_metric(list(gauge.labels.values()), gauge.value)
    yield from families.values()
