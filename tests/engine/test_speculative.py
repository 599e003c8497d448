"""Drafts change no answer, whatever they are, and are written only where they pay."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from burnish.core.errors import BadSettings
from burnish.core.types import Request, Sampling
from burnish.engine.acceptance import Acceptance
from burnish.engine.config import EngineConfig
from burnish.engine.costs import ANY_DRAFT, StepCosts
from burnish.engine.engine import Engine
from burnish.engine.lookup import SAME, Lookup
from burnish.engine.speculative import MOST_DRAFTS, Offer, best_lengths
from burnish.models.decoder import Decoder
from burnish.models.golden import golden_logits
from tests.engine.conftest import end, finish, request, run, text, tokens
from tests.engine.test_equalities import Answers, alone, answers, requests
from tests.tiny import ByteTokenizer, tiny_decoder


class Settled(StepCosts):
    """Costs that no clock changes."""

    def learn(self, sequences: int, drafts: int, forward_s: float, step_s: float) -> None:
        pass


FREE, DEAR = Settled({1: 1000.0, 64: 1000.1}), Settled({1: 1000.0, 64: 64_000.0})
MakeDrafting = Callable[..., Engine]


@pytest.fixture
def make_drafting(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> MakeDrafting:
    """Engines that draft; by default rows cost nothing, so that all drafts there can be are tried."""

    def make(
        draft: Decoder | None = None, *, costs: StepCosts = FREE, target: Decoder = decoder, **settings: Any
    ) -> Engine:
        monkeypatch.setattr("burnish.engine.engine.measure_costs", lambda *_: costs)
        settings = {"num_blocks": 64, "block_size": 8, "threads": 1, "lookup": True} | settings
        return Engine(target, ByteTokenizer(), EngineConfig(**settings), draft=draft)

    return make


@pytest.fixture(scope="session")
def one_by_one(decoder: Decoder) -> Answers:
    return alone(decoder)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"prefix_cache": False, "max_running": 1},
    {"step_tokens": 12, "max_running": 10, "prefill_share": 3, "prefill_floor": 1},
    {"num_blocks": 16, "max_running": 10},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("draft", ["lookup", "itself", "another", "itself and lookup"])
def test_answers_are_the_same_to_the_last_bit(
    make_drafting: MakeDrafting, decoder: Decoder, one_by_one: Answers, draft: str, settings: dict[str, Any]
) -> None:
    by_name = {"itself": decoder, "itself and lookup": decoder, "another": tiny_decoder(seed=8)}
    engine = make_drafting(by_name.get(draft), lookup="lookup" in draft, **settings)
    assert answers(run(engine, requests())) == one_by_one
    counts = engine.drafted
    if draft == "itself":
        assert counts.drafts > 20
        assert sum(counts.kept) > 0.8 * counts.drafts, "only the last drafts of an answer are cut"
    if draft == "another":
        assert 0 < sum(counts.kept) + 1 < counts.drafts
    if settings.get("num_blocks") == 16:
        assert engine.load().preemptions > 0


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.9, "top_p": 0.95, "seed": 11},
        {"temperature": 1.3, "seed": 2, "frequency_penalty": 0.7, "presence_penalty": 0.2, "repetition_penalty": 1.2},
        {"repetition_penalty": 1.5, "frequency_penalty": 0.3},
        {"logit_bias": ((7, 4.0), (200, 4.0))},
    ],
    ids=str,
)
def test_sampled_and_penalized_answers_are_the_same(
    make_drafting: MakeDrafting, decoder: Decoder, sampling: dict[str, Any]
) -> None:
    engine = make_drafting(decoder)
    assert answers(run(engine, requests(**sampling))) == alone(decoder, **sampling)
    assert engine.drafted.drafts > 0


def test_draws_have_the_distribution_of_the_model(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    """Chi-square over the second token of 2,400 unseeded answers, behind the first that came most often."""
    prompt = [5, 9, 200]
    engine = make_drafting(decoder, max_running=16)
    asked = [request(str(i), prompt, max_tokens=4, temperature=0.3) for i in range(2400)]
    found = []
    for first in range(0, len(asked), 800):
        found += [tokens(events)[:2] for events in run(engine, asked[first : first + 800]).values()]
    assert engine.drafted.drafts > sum(engine.drafted.kept) > 200
    (likely, _), *_ = Counter(one for one, _ in found).most_common(1)
    seen = Counter(other for one, other in found if one == likely)
    logits = golden_logits(decoder, [[*prompt, likely]])[0].astype(np.float64) / 0.3
    chances = np.exp(logits - logits.max())
    expected = chances / chances.sum() * seen.total()
    common = np.flatnonzero(expected >= 5)
    observed = np.array([seen[int(token)] for token in common])
    rest = seen.total() - observed.sum(), seen.total() - expected[common].sum()
    statistic = ((observed - expected[common]) ** 2 / expected[common]).sum() + (rest[0] - rest[1]) ** 2 / rest[1]
    degrees = len(common)
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5, "beyond four standard deviations"


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 9])
def test_the_length_is_kept(make_drafting: MakeDrafting, decoder: Decoder, max_tokens: int) -> None:
    engine = make_drafting(decoder)
    events = run(engine, [request("a", [1, 2, 3], max_tokens=max_tokens)])["a"]
    assert len(tokens(events)) == end(events).usage.completion_tokens == max_tokens


def test_what_ends_an_answer_ends_it_among_drafts(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    """A stop token, a stop string: whatever was drafted behind them is not told."""
    plain = Engine(decoder, ByteTokenizer(), EngineConfig(threads=1))
    whole = run(plain, [request("a", [1, 2, 3], max_tokens=20)])["a"]
    stops: tuple[dict[str, Any], ...] = ({"stop_token_ids": (tokens(whole)[6],)}, {"stop": (text(whole)[4:6],)})
    for number, stop in enumerate(stops):
        expected = run(plain, [request(f"p{number}", [1, 2, 3], max_tokens=20, **stop)])[f"p{number}"]
        engine = make_drafting(decoder)
        events = run(engine, [request("a", [1, 2, 3], max_tokens=20, **stop)])["a"]
        assert (tokens(events), text(events)) == (tokens(expected), text(expected))
        assert end(events).reason == "stop"
        assert end(events).usage == end(expected).usage


def test_a_text_that_repeats_itself_is_looked_up(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    engine = make_drafting()
    run(engine, [request("a", [3, 4, 5], max_tokens=60, logit_bias=((7, 50.0),))])
    assert engine.drafted.drafts > 0
    assert len(engine.drafted.kept) == MOST_DRAFTS
    assert engine.load().steps < 62 - sum(engine.drafted.kept) // 2


def test_nothing_is_drafted_where_rows_are_dear(make_drafting: MakeDrafting) -> None:
    engine = make_drafting(tiny_decoder(seed=8), costs=DEAR)
    run(engine, [request(str(i), [i, 2, 3], max_tokens=24) for i in range(8)])
    assert engine.drafted.drafts <= 8, "at most a probe each"


def test_nobody_is_preempted_for_a_draft(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    """Two sequences fill the pool to the last block."""
    engine = make_drafting(decoder, num_blocks=6)
    found = run(engine, [request("a", [1] * 10, max_tokens=14), request("b", [2] * 10, max_tokens=14)])
    assert engine.load().preemptions == 0
    assert all(len(tokens(events)) == 14 for events in found.values())


def test_what_was_known_of_a_request_is_forgotten(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    engine = make_drafting(decoder)
    run(engine, requests())
    engine.add(request("gone", [1] * 20, max_tokens=30))
    for _ in range(4):
        engine.step()
    engine.abort("gone")
    finish(engine)
    assert engine._speculation is not None
    assert not engine._speculation._texts


def test_a_draft_of_another_vocabulary_is_refused(decoder: Decoder) -> None:
    other = tiny_decoder(vocab_size=100)
    with pytest.raises(BadSettings, match="the draft model knows 100 tokens, the model 259"):
        Engine(decoder, None, EngineConfig(num_blocks=8, threads=1), draft=other)


def test_a_draft_with_a_shorter_context_stops_at_its_end(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    short = tiny_decoder(seed=3, max_positions=24)
    engine = make_drafting(short, lookup=False)
    plain = Engine(decoder, ByteTokenizer(), EngineConfig(threads=1))
    asked = [request("a", [1, 2, 3], max_tokens=60)]
    assert tokens(run(engine, asked)["a"]) == tokens(run(plain, asked)["a"])
    assert 0 < engine.drafted.drafts < 24


def offers(*chances: list[float], by_model: bool = False) -> list[Offer]:
    return [Offer(c, place, index, by_model) for index, own in enumerate(chances) for place, c in enumerate(own)]


def test_drafts_follow_what_rows_cost() -> None:
    def lengths(*chances: list[float], costs: StepCosts, most: int = 10) -> list[int]:
        return best_lengths(offers(*chances), costs, len(chances), len(chances), most=most, round_s=0.0)

    sure, unsure = [0.9, 0.81, 0.73], [0.3, 0.09]
    assert lengths(sure, unsure, costs=FREE) == [3, 2]
    assert lengths(sure, unsure, costs=DEAR) == [0, 0]
    between = StepCosts({1: 1.0, 2: 1.1, 64: 20.0})  # one more row costs 0.3 of a step of two, which gives two tokens
    assert lengths(sure, unsure, costs=between) == [3, 0]
    assert lengths(sure, unsure, costs=FREE, most=1) == [1, 0], "rows that are left"
    assert lengths([0.01], costs=FREE) == [0], "less than costs are uncertain by"


def test_a_model_that_writes_slowly_is_not_asked() -> None:
    sure = [0.9, 0.81, 0.73]
    assert best_lengths(offers(sure, by_model=True), FREE, 1, 1, most=10, round_s=2000.0) == [0]
    assert best_lengths(offers(sure, by_model=True), FREE, 1, 1, most=10, round_s=100.0) == [3]


def test_costs_are_read_between_what_was_measured_and_learned() -> None:
    costs = StepCosts({1: 1.0, 4: 4.0, 8: 5.0})
    assert [costs.forward_s(rows) for rows in (1, 2, 4, 6, 8, 16)] == pytest.approx([1, 2, 4, 4.5, 5, 10])
    for _ in range(100):
        costs.learn(4, 0, 2.0, 2.0)
    assert costs.forward_s(4) == pytest.approx(2.0, rel=0.01)
    assert costs.forward_s(8) == 5.0


def test_what_surrounds_a_step_counts() -> None:
    """Half a second and a tenth for each sequence; three tenths for each draft."""
    costs = StepCosts({1: 1.0, 64: 1.0})
    for _ in range(200):
        for sequences in (1, 4, 16):
            costs.learn(sequences, 0, 1.0, 1.5 + 0.1 * sequences)
    assert costs.plain_s(8, 8) == pytest.approx(2.3, rel=0.02)
    for _ in range(100):
        costs.learn(4, 10, 1.0, 1.9 + 0.3 * (10 + ANY_DRAFT))
    assert costs.drafts_s(4, 6) == pytest.approx(0.3 * (6 + ANY_DRAFT), rel=0.05)
    costs.learn(8, 0, 1.0, 60.0)
    costs.learn(4, 10, 1.0, 90.0)
    assert costs.plain_s(8, 8) == pytest.approx(2.3, rel=0.02), "something else held these steps up"
    assert costs.drafts_s(4, 6) == pytest.approx(0.3 * (6 + ANY_DRAFT), rel=0.05)


def test_shares_are_learned_by_run_and_handed_on() -> None:
    everyone = Acceptance(kept=0.995)
    first = Acceptance(everyone)
    for number in range(400):
        first.learn(3, was_right=number % 10 == 0)
        first.learn(12, was_right=True)
    assert first.share(3) == pytest.approx(0.1, abs=0.08)
    assert first.share(8) == first.share(30) > 0.97
    assert Acceptance(everyone).share(3) == pytest.approx(everyone.share(3))
    assert Acceptance(everyone).share(5) == Acceptance().share(5), "nothing was seen of it"


def followed(*texts: list[int]) -> tuple[Lookup, list[tuple[int, bool]]]:
    """A text that grows, and what was noted of what was expected."""
    lookup, noted = Lookup(), list[tuple[int, bool]]()
    for grown in texts:
        lookup.follow(grown, lambda run, was_right: noted.append((run, was_right)))
    return lookup, noted


def test_a_text_is_followed_where_it_said_the_same() -> None:
    said = [1, 2, 3, 9, 1, 2, 3, 7, 5, 1, 2, 3]
    lookup, noted = followed(said)
    assert (lookup.run, lookup.expected(said, 3)) == (SAME, (7, 5, 1)), "where it was said last"
    assert not noted, "of a prompt nothing was expected"
    right, wrong = [*said, 7, 5], [*said, 7, 6]
    lookup, noted = followed(said, right)
    assert noted == [(SAME, True), (SAME + 1, True)]
    assert (lookup.run, lookup.expected(right, 2)) == (SAME + 2, (1, 2))
    lookup, noted = followed(said, wrong)
    assert noted == [(SAME, True), (SAME + 1, False)]
    assert (lookup.run, lookup.expected(wrong, 2)) == (0, ())


def test_a_text_that_runs_into_itself_is_expected_to_go_on() -> None:
    lookup, _ = followed([1, 2, 4, 5, 4, 5, 4, 5])
    assert lookup.expected([1, 2, 4, 5, 4, 5, 4, 5], 5) == (4, 5, 4, 5, 4)
    assert followed([1, 2, 3, 4])[0].run == 0
    assert followed([1])[0].run == 0


def test_a_long_prompt_is_indexed_bit_by_bit() -> None:
    long = list(range(50)) * 200
    first, _ = followed(long)
    assert first.run == 0
    lookup, _ = followed(long, long, long)
    assert (lookup.run, lookup.expected(long, 2)) == (SAME, (0, 1))


def test_salts_keep_drafts_apart_too(make_drafting: MakeDrafting, decoder: Decoder) -> None:
    """Equal prompts of two tenants share no block, hence no draft key."""
    engine = make_drafting(decoder)
    plain = tuple(range(40))
    for name, salt in (("a", ""), ("b", "tenant")):
        sampling = Sampling(temperature=0, max_tokens=8, ignore_eos=True)
        engine.add(Request(request_id=name, prompt=plain, sampling=sampling, salt=salt))
    events = finish(engine)
    assert tokens(events["a"]) == tokens(events["b"])
    assert engine.load().prefix_hit_tokens == 0
