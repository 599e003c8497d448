"""The search against a lab whose truth is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.compress.recipes import RECIPES
from burnish.core.errors import BurnishError, OutOfMemory, OutOfTime
from burnish.engine.config import EngineConfig
from burnish.measure.limits import parse_limits
from burnish.measure.quality.perplexity import Passage, QualityConfig
from burnish.optimize.candidates import Candidate, Drafting, fastest_first, is_own, settings, weights
from burnish.optimize.lab import Half
from burnish.optimize.report import page, plain
from burnish.optimize.search import Asked, Outcome, Reach, Search, Steps, Tried
from burnish.optimize.shapes import Shape, Sized
from burnish.optimize.weigh import NAMES

TOKENS = 65_536


@dataclass(frozen=True)
class Truth:
    """What a candidate really is."""

    slower: float = 1.0  # times the model itself
    loss: float = 0.0  # nats a token
    size_mb: float = 10.0
    fault: BurnishError | None = None


@dataclass
class KnownLab:
    """Measures the truth with noise of its own, and a machine that drifts. Wears Lab."""

    truths: Mapping[str, Truth]
    seed: int = 0
    noise: float = 0.01
    asked: list[str] = field(default_factory=list)
    read: dict[str, Reach] = field(default_factory=dict)  # the last of each
    late: frozenset[str] = frozenset()  # who have time for a little of the text only

    def truth(self, candidate: Candidate) -> Truth:
        return self.truths.get(candidate.name, self.truths.get(candidate.recipe or "", Truth()))

    def make(self, candidate: Candidate) -> float:
        found = self.truth(candidate)
        self.asked.append(candidate.name)
        if found.fault is not None:
            raise found.fault
        return found.size_mb

    def losses(self, candidate: Candidate, reach: Reach) -> NDArray[np.float64]:
        self.read[candidate.name] = reach
        if reach != Reach.LITTLE and candidate.name in self.late:
            raise OutOfTime("no time was left")
        text = np.random.default_rng(99).exponential(3.0, TOKENS)
        own = np.random.default_rng([self.seed, *candidate.name.encode()]).normal(0, 0.05, TOKENS)
        changed = text if candidate.recipe is None else text + self.truth(candidate).loss + own
        return changed[: TOKENS // reach]

    def serve(self, candidate: Candidate, number: int) -> dict[str, float]:
        random = np.random.default_rng([self.seed, number, *candidate.name.encode()])
        drift = 1 + 0.5 * number  # of the machine, for all alike
        time = drift * self.truth(candidate).slower * float(np.exp(random.normal(0, self.noise)))
        found = {f"p{share}_{what}_ms": 100 * time for what in ("ttft", "tpot", "e2e") for share in (50, 95)}
        return found | {
            "tokens_per_s": 10 / time,
            "memory_mb": 50 + self.truth(candidate).size_mb,
            "cost_per_million": time,
        }

    def until(self, share: float) -> None:
        assert 0 < share <= 1

    def has_time(self) -> bool:
        return True


def halves(seed: int = 0) -> tuple[Half, Half]:
    passage = Passage(tuple(range(TOKENS)), 1, TOKENS, QualityConfig(), ())
    return Half(passage, seed=seed, is_first=True), Half(passage, seed=seed, is_first=False)


def run(lab: KnownLab, *names: str, seed: int = 0, **words: Any) -> Outcome:
    usual: dict[str, Any] = {"objective": "latency", "max_loss": 0.01}
    asked = Asked(**(usual | words))
    return Search(lab, asked, halves(seed)).run([Candidate(recipe=name) for name in names])


def found_of(outcome: Outcome, name: str) -> Tried:
    return next(one for one in outcome.tried if one.name == name)


FAST = {
    "int8": Truth(0.8, 0.0005, 7.0),
    "int4-g32": Truth(0.6, 0.006, 5.0),
    "int4-g128": Truth(0.5, 0.05, 4.5),
}


@pytest.mark.parametrize("seed", range(20))
def test_the_fastest_that_keeps_the_loss_is_chosen(seed: int) -> None:
    found = run(KnownLab(FAST, seed=seed), *FAST, seed=seed)
    assert found.chosen == "int4-g32"
    assert "times as good as before" in found.reason
    assert "loses" in found_of(found, "int4-g128").reason
    assert found_of(found, "int4-g32").confirmed is not None


def test_drift_of_the_machine_changes_nothing() -> None:
    found = run(KnownLab(FAST), *FAST)
    [one] = [one for one in found.weighed if one.name == "int8"]
    assert one.ratio.value == pytest.approx(0.8, rel=0.03)
    assert one.ratio.high - one.ratio.low < 0.1


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_not_told_as_a_gain(seed: int) -> None:
    found = run(KnownLab({"int8": Truth(1.0, 0.0, 12.0)}, noise=0.3, seed=seed), "int8")
    assert "times as good" not in found.reason


def test_the_best_of_many_that_are_all_alike_is_rarely_told_as_a_gain() -> None:
    names = (
        "int8",
        "int8-gptq",
        "int8-imatrix",
        "int4-g64",
        "int4-g32",
        "int4-gptq-g64",
        "int4-awq-g64",
        "fp8-dynamic",
    )
    truths = {name: Truth(1.0, 0.0, 12.0) for name in names}
    told = sum("times as good" in run(KnownLab(truths, noise=0.3, seed=seed), *names).reason for seed in range(50))
    assert told <= 2


def test_a_machine_that_drifts_within_rounds_favours_nobody() -> None:
    """Each round begins with another candidate."""
    lab = KnownLab({name: Truth(1.0) for name in ("int8", "int4-g32", "int8-gptq")})
    served: list[str] = []
    serve = lab.serve

    def slower_and_slower(candidate: Candidate, number: int) -> dict[str, float]:
        served.append(candidate.name)
        found = serve(candidate, number)
        return found | {"p50_e2e_ms": found["p50_e2e_ms"] * (1 + 0.1 * (len(served) % 4))}

    lab.serve = slower_and_slower  # type: ignore[method-assign]
    found = run(lab, "int8", "int4-g32", "int8-gptq")
    assert "times as good" not in found.reason
    rounds = [served[at : at + 4] for at in range(len(served) - 20, len(served), 4)]
    assert len({one[0] for one in rounds}) == 4


def test_a_smaller_one_that_is_as_fast_is_taken_and_said_to_be_no_faster() -> None:
    found = run(KnownLab({"int8": Truth(1.0, 0.0, 5.0)}, noise=0.05), "int8")
    assert found.chosen == "int8"
    assert "the smallest" in found.reason


def test_what_cannot_be_shown_is_not_chosen() -> None:
    found = run(KnownLab({"int8": Truth(0.5, 0.0099)}), "int8", max_loss=0.01)
    assert found.chosen == "as it is"
    assert "more text is needed" in found_of(found, "int8").reason


def test_more_text_is_read_where_it_is_needed() -> None:
    """A loss of 0.9 % shows only on all of the text: noise of a token is 5 %, halves of a quarter have 8,192."""
    lab = KnownLab({"int8": Truth(0.8, 0.0005), "int4-g32": Truth(0.5, 0.009)})
    found = run(lab, "int8", "int4-g32")
    assert found.chosen == "int4-g32"
    assert (lab.read["int8"], lab.read["int4-g32"]) == (Reach.MORE, Reach.ALL)


def test_a_loss_that_shows_on_the_other_half_only_is_caught() -> None:
    lab, (searched, kept) = KnownLab({"int8": Truth(0.5), "int4-g32": Truth(0.7)}), halves()
    seen = Search(lab, Asked(objective="latency", max_loss=0.01), (searched, kept))
    read = lab.losses

    def losses(candidate: Candidate, reach: Reach) -> NDArray[np.float64]:
        found = read(candidate, reach).copy()
        if candidate.recipe == "int8":
            found[~searched.is_in[: len(found)]] += 0.2
        return found

    lab.losses = losses  # type: ignore[method-assign]
    found = seen.run([Candidate(recipe="int8"), Candidate(recipe="int4-g32")])
    assert found.chosen == "int4-g32"
    assert "had not seen" in found_of(found, "int8").reason


def test_nothing_that_keeps_the_limits_names_what_comes_nearest() -> None:
    found = run(KnownLab(FAST), *FAST, limits=parse_limits(["p95_ttft_ms<=1"], NAMES))
    assert found.chosen is None
    assert found.nearest == "int4-g32"
    assert [str(limit) for limit in found.unmet] == ["p95_ttft_ms<=1"]
    assert "int4-g32 comes nearest" in found.reason


@pytest.mark.parametrize("seed", range(5))
def test_halving_keeps_what_is_shown_to_keep_the_loss(seed: int) -> None:
    """Four are faster and lose too much to be shown to keep 1 %: the slower one that loses nothing must be left."""
    fast = ("int4-g32", "int4-g64", "int4-gptq-g32", "int4-gptq-g64")
    truths = {name: Truth(0.5, 0.0099) for name in fast} | {"int8": Truth(0.8, 0.0001)}
    found = run(KnownLab(truths, seed=seed), *truths, seed=seed)
    assert found.chosen == "int8"


def test_halving_looks_at_the_limits_first() -> None:
    """The only one that keeps them is the slowest of many."""
    truths = {name: Truth(0.5, size_mb=20.0) for name in ("int4-g32", "int8-gptq", "fp8-dynamic", "int8-imatrix")}
    truths |= {"int8": Truth(0.9, size_mb=5.0)}
    found = run(KnownLab(truths), *truths, limits=parse_limits(["size_mb<=6"], NAMES))
    assert found.chosen == "int8"
    assert any("breaks size_mb<=6 in the first round" in one.reason for one in found.tried)


def test_what_comes_nearest_may_have_fallen_out_before() -> None:
    truths = {name: Truth(0.5, size_mb=20.0) for name in ("int4-g32", "int8-gptq", "fp8-dynamic", "int8-imatrix")}
    truths |= {"int8": Truth(0.9, size_mb=7.0)}
    found = run(KnownLab(truths), *truths, limits=parse_limits(["size_mb<=6"], NAMES))
    assert found.chosen is None
    assert found.nearest == "int8"


def test_limits_rule_out_the_fastest() -> None:
    truths = {"int8": Truth(0.5, size_mb=20.0), "int4-g32": Truth(0.8, size_mb=5.0)}
    found = run(KnownLab(truths), *truths, limits=parse_limits(["memory_mb<=58"], NAMES))
    assert found.chosen == "int4-g32"


@pytest.mark.parametrize("fault", [OutOfMemory("took more than 5 MiB"), BurnishError("died")])
def test_one_that_fails_harms_nobody(fault: BurnishError) -> None:
    found = run(KnownLab(FAST | {"int8": Truth(fault=fault)}), *FAST)
    assert found.chosen == "int4-g32"
    assert found_of(found, "int8").reason == fault.message


def test_own_weights_are_known_by_name() -> None:
    assert is_own(Candidate(recipe=None, keys="int8").name)
    assert not is_own(Candidate(recipe="int8").name)


def test_the_model_itself_must_be_measured() -> None:
    lab = KnownLab({})
    lab.serve = lambda *_: (_ for _ in ()).throw(BurnishError("died"))  # type: ignore[method-assign]
    with pytest.raises(BurnishError, match="died"):
        run(lab, "int8")


def test_without_time_for_rounds_in_turn_the_first_decides_and_no_gain_is_told() -> None:
    lab = KnownLab(FAST)
    serve = lab.serve

    def late(candidate: Candidate, number: int) -> dict[str, float]:
        if number:
            raise OutOfTime("a measurement took longer than 1 s")
        return serve(candidate, number)

    lab.serve = late  # type: ignore[method-assign]
    found = run(lab, *FAST)
    assert found.chosen in ("int8", "int4-g32")
    assert "times as good" not in found.reason


def test_without_time_for_all_of_the_text_a_part_counts() -> None:
    found = run(KnownLab(FAST, late=frozenset(("int4-g32",))), *FAST)
    assert found.chosen == "int4-g32"


def test_settings_are_tried_around_the_best_weights() -> None:
    truths = FAST | {"int4-g32, keys int8": Truth(0.4, 0.006, 5.0)}
    found = run(KnownLab(truths), *FAST, concurrency=8)
    assert found.chosen == "int4-g32, keys int8"
    assert any("prefill share" in one.name for one in found.tried)


def test_halving_leaves_the_better() -> None:
    truths = {name: Truth(1 - 0.05 * number) for number, name in enumerate(("int8", "int4-g32", "int4-g128"))}
    truths |= {f"int8-g{size}": Truth(2.0) for size in (32, 64, 128)}
    lab = KnownLab(truths)
    found = run(lab, *truths)
    assert {one.name for one in found.weighed} >= {"int4-g128", "int4-g32", "int8"}
    assert found_of(found, "int8-g32").reason == "slower in the first round"


def test_candidates_follow_what_is_there() -> None:
    assert [one.recipe for one in weights(has_data=False, is_compressed=False)] == ["int8", "int4-g32", "int4-g128"]
    with_data = [one.recipe for one in weights(has_data=True, is_compressed=False)]
    assert "int4-gptq-g128" in with_data
    assert all(name in RECIPES for name in with_data)
    assert weights(has_data=True, is_compressed=True) == []
    alone = settings(Candidate(recipe="int8"), cores=4, concurrency=1)
    assert [one.name for one in alone] == ["int8, keys int8", "int8, threads 1", "int8, threads 2"]
    drafted = settings(Candidate(recipe=None), cores=2, concurrency=1, drafting=Drafting(lookup=True, model="a/small"))
    assert {"as it is, drafts by lookup", "as it is, drafts by small"} <= {one.name for one in drafted}
    configs = [one.config(EngineConfig()) for one in drafted if one.drafting is not None]
    assert [(one.lookup, one.draft) for one in configs] == [(True, None), (False, "a/small")]
    together = [one.name for one in settings(Candidate(recipe="int8"), cores=2, concurrency=8)]
    assert {"int8, prefill share 64", "int8, max running 8", "int8, max running 4"} <= set(together)


def test_a_smaller_shape_is_scored_taught_and_chosen_where_it_keeps_the_loss() -> None:
    known = [Sized(Shape(inner=0.25), 0.8), Sized(Shape(layers=0.25), 0.75), Sized(Shape(inner=0.125), 0.9)]
    truths = FAST | {
        "shrunk-inner25": Truth(0.8, 0.5),
        "shrunk-layers25": Truth(0.7, 0.9),
        "shrunk-inner25-distill-int4": Truth(0.3, 0.004, 3.0),
    }
    search = Search(KnownLab(truths), Asked(objective="latency", max_loss=0.01), halves())
    found = search.run([Candidate(recipe=name) for name in FAST], known)
    assert found.chosen == "shrunk-inner25-distill-int4"
    assert "before it learned" in found_of(found, "shrunk-layers25").reason
    assert not any(one.name.startswith("shrunk-inner12.5") for one in found.tried), "too little goes"
    truths["shrunk-inner25-distill-int4"] = Truth(0.3, 0.1, 3.0)
    search = Search(KnownLab(truths), Asked(objective="latency", max_loss=0.01), halves())
    assert search.run([Candidate(recipe=name) for name in FAST], known).chosen == "int4-g32"


def test_what_is_predicted_to_be_slow_or_known_to_lose_more_is_not_made() -> None:
    lab = KnownLab({"int4-gptq-g32": Truth(0.5, 0.05), "int8": Truth(0.9)})
    names = ("int8", "fp8-dynamic", "int4-gptq-g32", "int4-gptq-g128", "int3-gptq-g128")
    search = Search(lab, Asked(objective="latency", max_loss=0.01), halves())
    found = search.run([Candidate(recipe=name) for name in names], (), {"fp8-dynamic": 1.5, "int8": 1.4})
    assert found.chosen == "int8"
    assert found_of(found, "fp8-dynamic").reason == "predicted to take 1.50 times as long"
    assert "int4-gptq-g32 loses too much already" in found_of(found, "int3-gptq-g128").reason
    assert set(lab.asked) == {"as it is", "int8", "int4-gptq-g32", "int8, keys int8"}


def test_what_is_predicted_to_be_fastest_is_tried_first() -> None:
    every = weights(has_data=True, is_compressed=False)
    ordered = fastest_first(every, {"int4-g128": 0.4, "int4-g32": 0.5, "int8": 0.7, "int3-gptq-g128": 0.3})
    names = [one.recipe for one in ordered]
    assert names[:4] == ["int4-g128", "int4-g32", "int8", "int3-gptq-g128"]
    assert names[-2:] == ["shrink-25-distill-int4", "int4-qat-g128"], "what learns takes longest"


def test_what_is_ahead_is_told_and_shrinks() -> None:
    told: list[Steps] = []
    search = Search(
        KnownLab(FAST), Asked(objective="latency", max_loss=0.01), halves(), lambda _, ahead: told.append(ahead)
    )
    search.run([Candidate(recipe=name) for name in FAST])
    assert told[0].makes == len(FAST)
    assert all(later.serves <= sooner.serves for sooner, later in pairwise(told[3:]))
    assert told[-1].makes == 0


def test_halves_part_the_text_and_follow_the_seed() -> None:
    (one, other), (again, _), (third, _) = halves(1), halves(1), halves(2)
    assert (one.is_in != other.is_in).all()
    assert (one.is_in == again.is_in).all()
    assert (one.is_in != third.is_in).any()
    assert one.is_in.mean() == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_shortest_part_that_is_read_first_lies_in_both_halves(seed: int) -> None:
    passage = Passage(tuple(range(8 * 256)), 1, 8 * 256, QualityConfig(), ())
    for is_first in (True, False):
        half = Half(passage, seed=seed, is_first=is_first)
        assert half(np.zeros(2 * 256), np.zeros(2 * 256)).value == 0


def test_the_report_tells_what_the_search_found() -> None:
    asked = Asked(objective="latency", max_loss=0.01)
    found = run(KnownLab(FAST), *FAST)
    report = plain(found, asked, {"seed": 0})
    assert report["chosen"] == "int4-g32"
    assert report["baseline"]["ratio"]["value"] == 1.0
    assert report["loss_ratio"] == pytest.approx(0.006, abs=0.002)
    written = page(report)
    assert "data:image/svg+xml;base64," in written
    for one in report["candidates"]:
        assert one["name"] in written
    chosen = next(one for one in report["candidates"] if one["name"] == "int4-g32")
    assert f"{chosen['ratio']['value']:.3f}" in written
    assert f"{100 * chosen['loss']['value']:+.2f}" in written
    unmet = run(KnownLab(FAST), *FAST, limits=parse_limits(["p95_ttft_ms<=1"], NAMES))
    assert "Nothing keeps the limits" in page(plain(unmet, asked, {}))
