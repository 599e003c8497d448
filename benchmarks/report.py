"""The results as a page: every figure, who is ahead of whom, and how close memory lets anybody come."""

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.peers import FORMATS, OURS, SHAPES
from benchmarks.results import Measured, Results, Spread
from benchmarks.workloads import WORKLOADS

QUIET_CORES = 0.1  # others' use of the machine above which a run is disturbed
DISTURBED_SHARE = 0.1  # of runs: more make the figures doubtful
REFERENCE = "llama_cpp"
STOPPED = "**The run was stopped before its end:** medians are of what was measured until then.\n\n"


def page(results: Results) -> str:
    """Markdown."""
    parts = [_head(results), "![Tokens per second](cpu.svg)\n", _ratio_table(results), _start(results)]
    parts += [_shape_table(results, shape.name, shape.title) for shape in SHAPES]
    return "\n".join(part for part in parts if part)


def group(results: Results, shape: str, weights: str) -> list[Measured]:
    """The lines of one shape and format."""
    return [line for line in results.lines if line.shape == shape and line.format == weights]


def ratio(
    ours: Measured, lines: Sequence[Measured], workload: str, against: Sequence[str] | None = None
) -> float | None:
    """Our line's median over the best median of the others, or of the peers named; None when one is missing."""
    own = ours.spread(workload)
    others = [line for line in lines if line.peer != OURS and (against is None or line.peer in against)]
    theirs = [found.median for line in others if (found := line.spread(workload)) is not None]
    return own.median / max(theirs) if own is not None and theirs else None


def memory_share(line: Measured, results: Results) -> float | None:
    """Bytes of weights that decoding alone reads per second, over what the machine can read.

    None where that is not known, or where the weights fit the processor's cache.
    """
    found, bandwidth = line.spread("decode-1"), results.bandwidth
    if found is None or bandwidth is None or line.read_bytes is None or line.read_bytes <= results.cache_bytes:
        return None
    return found.median * line.read_bytes / bandwidth


def _head(results: Results) -> str:
    machine = results.machine
    return f"""# burnish and its peers on a CPU

Written by `make bench`: {results.date}, commit {results.commit}. {machine["cpu"]}, {machine["num_cores"]} cores,
{machine["memory_bytes"] / 2**30:.0f} GiB, {" ".join(machine["features"])}; {results.threads} threads.
Random weights but for the built-in model (speed does not depend on their values), distinct random prompts, prefix
caches off, greedy. Peers in turn, {rounds_text(results.rounds)}, all but one stopped. Medians; in brackets the least
and the most.

{"" if results.is_whole else STOPPED}Memory read: {_bandwidth(results)}.
{_weather(results.cores_of_others)}
Versions: {", ".join(f"{name} {version}" for name, version in results.versions.items())}.
"""


def _weather(others: Sequence[float]) -> str:
    """Whether others used the machine."""
    if not others:
        return "Nothing was measured."
    disturbed = sum(cores > QUIET_CORES for cores in others)
    text = f"Other processes used more than {QUIET_CORES} cores during {disturbed} of {len(others)} runs"
    verdict = " **The machine was loaded: measure again.**" if disturbed > DISTURBED_SHARE * len(others) else ""
    return f"{text}, {median(others):.2f} in the median.{verdict}"


def rounds_text(count: int) -> str:
    """As in "5 rounds"."""
    return f"{count} round{'s' * (count != 1)}"


def _bandwidth(results: Results) -> str:
    texts = []
    for threads in results.bandwidth_before:
        before, after = results.bandwidth_before[threads], results.bandwidth_after.get(threads)
        later = "" if after is None else f", {after / 1e9:.1f} after"
        texts.append(f"{threads} thread{'s' * (threads != '1')} {before / 1e9:.1f} GB/s before the run{later}")
    return "; ".join(texts) or "not measured, there is no C compiler"


def _ratio_table(results: Results) -> str:
    rows = []
    for shape in SHAPES:
        for weights in FORMATS:
            lines = group(results, shape.name, weights)
            rows += [_ratios(shape.title, line, lines, results) for line in lines if line.peer == OURS and line.runs]
    titles = [work.title for work in WORKLOADS]
    head = ["", *titles, "decode, of llama.cpp", "decode, share of the memory limit"]
    return "## burnish, as a multiple of the best peer\n\n" + _table(head, rows) if rows else ""


def _ratios(title: str, ours: Measured, lines: Sequence[Measured], results: Results) -> list[str]:
    share = memory_share(ours, results)
    return [
        f"{title}, {ours.label.removeprefix(OURS).strip()}",
        *(_times(ratio(ours, lines, work.name)) for work in WORKLOADS),
        _times(ratio(ours, lines, "decode-1", [REFERENCE])),
        "-" if share is None else f"{share:.0%}",
    ]


def _shape_table(results: Results, shape: str, title: str) -> str:
    rows = [
        _row(line, best, results)
        for weights in FORMATS
        for lines in [group(results, shape, weights)]
        for best in [_best(lines)]
        for line in lines
    ]
    head = ["tokens/s", *(work.title for work in WORKLOADS), "of the memory limit", "ready", "peak memory"]
    return f"## {title}\n\n" + _table(head, rows) if rows else ""


def _best(lines: Iterable[Measured]) -> dict[str, float]:
    """The greatest median of each workload."""
    lines = list(lines)
    medians = {work.name: [s.median for line in lines if (s := line.spread(work.name))] for work in WORKLOADS}
    return {name: max(found) for name, found in medians.items() if found}


def _row(line: Measured, best: dict[str, float], results: Results) -> list[str]:
    label = f"**{line.label}**" if line.peer == OURS else line.label
    label = label if line.reason is None else f"{label}: {line.reason[:160].replace('|', '/')}"
    spreads = [(line.spread(work.name), best.get(work.name)) for work in WORKLOADS]
    share = memory_share(line, results)
    return [
        label,
        *(_figure(spread, spread is not None and spread.median == top) for spread, top in spreads),
        "-" if share is None else f"{share:.0%}",
        "-" if line.ready_s is None else f"{line.ready_s:.1f} s",
        "-" if line.peak_rss_bytes is None else f"{line.peak_rss_bytes / 1e6:.0f} MB",
    ]


def _figure(spread: Spread | None, is_best: bool) -> str:
    if spread is None:
        return "-"
    middle = f"**{_short(spread.median)}**" if is_best else _short(spread.median)
    return f"{middle} ({_short(spread.min)} - {_short(spread.max)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _start(results: Results) -> str:
    start = results.start
    if start is None:
        return f"Start from an artifact: not measured ({results.start_reason})\n" if results.start_reason else ""
    warm = Spread(median(start.warm_s), min(start.warm_s), max(start.warm_s))
    return f"""## Start and memory

burnish, {start.shape} {start.weights}, from the start of the process to a first token, from an artifact of
{start.artifact_bytes / 1e6:.0f} MB: {start.cold_s:.2f} s with an empty cache of its own, then {warm.median:.2f} s
({warm.min:.2f} - {warm.max:.2f}). Peak resident memory {start.peak_rss_bytes / 1e6:.0f} MB.
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"
