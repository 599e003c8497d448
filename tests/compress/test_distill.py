"""Distillation: losses by their definitions, learning that helps, runs that resume to the same bits."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from burnish.compress.distill import Distillation, DistillConfig, Text, divergence, split, write
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import load_decoder
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from tests.tiny import tiny_decoder


def logits(seed: int, rows: int = 5, columns: int = 11) -> Tensor:
    return torch.empty(rows, columns).normal_(std=2, generator=torch.Generator().manual_seed(seed))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """By the definition, in float64."""
    p, q = p.double().softmax(-1), q.double().softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_both_ends_are_the_two_divergences(temperature: float) -> None:
    ours, theirs = logits(0), logits(1)
    forward = divergence(ours, theirs, temperature=temperature)
    backward = divergence(ours, theirs, temperature=temperature, skew=1.0)
    assert float(forward) == pytest.approx(
        float(kl(theirs / temperature, ours / temperature)) * temperature**2, rel=1e-5
    )
    assert float(backward) == pytest.approx(
        float(kl(ours / temperature, theirs / temperature)) * temperature**2, rel=1e-5
    )


def test_between_them_it_is_the_jensen_shannon_divergence() -> None:
    ours, theirs = logits(0).double(), logits(1).double()
    mean = (ours.softmax(-1) + theirs.softmax(-1)) / 2
    expected = (kl(theirs, mean.log()) + kl(ours, mean.log())) / 2
    assert float(divergence(ours, theirs, skew=0.5)) == pytest.approx(float(expected) / 0.25, rel=1e-4)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_divergence_goes_smoothly_to_its_ends(end: float) -> None:
    near = abs(end - 1e-4)
    ours, theirs = logits(3), logits(4)
    at_end, beside = (float(divergence(ours, theirs, skew=skew)) for skew in (end, near))
    assert beside == pytest.approx(at_end, rel=0.02)


@pytest.mark.parametrize("skew", [0.0, 0.3, 1.0])
def test_of_equal_distributions_it_is_nothing(skew: float) -> None:
    ours = logits(2)
    assert float(divergence(ours, ours + 3.0, skew=skew)) == pytest.approx(0.0, abs=1e-5)


def lessons(teacher: Decoder) -> Text:
    """Text that the teacher wrote, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, 256, (40, 1), generator=generator)
    return split(write(teacher, starts, 65, generator).flatten(), 32)


TEACHER = tiny_decoder(seed=1)
TEXT = lessons(TEACHER)
BASE: dict[str, Any] = {"steps": 30, "batch": 4, "length": 32, "look_every": 10}


def pupil(seed: int = 2) -> Decoder:
    return tiny_decoder(seed=seed, num_layers=1).requires_grad_(True)


def taught(config: DistillConfig, student: Decoder | None = None) -> Distillation:
    student = student or pupil()
    return Distillation(student, student, TEACHER, TEXT, config)


@pytest.mark.parametrize(
    "asked",
    [
        {"logit_share": 1.0},
        {"logit_share": 1.0, "temperature": 2.0},
        {"logit_share": 1.0, "skew": 0.5},
        {"logit_share": 0.5, "data_share": 0.5},
        {"logit_share": 0.0, "hidden_share": 1.0, "data_share": 1.0},
        {"logit_share": 1.0, "taught_share": 1.0},
        {"logit_share": 1.0, "own_share": 0.5, "skew": 1.0},
    ],
    ids=str,
)
def test_every_kind_brings_the_student_nearer(asked: dict[str, Any]) -> None:
    looks = taught(DistillConfig(**BASE, rate=1e-2, **asked)).run()
    assert [look.step for look in looks] == [0, 10, 20, 30]
    assert looks[-1].divergence < 0.9 * looks[0].divergence


def rows_of(decoder: Decoder) -> Tensor:
    """Last hidden rows of the held-out text."""
    tokens = TEXT.held_out[:96]
    hidden: Tensor = decoder(tokens, torch.arange(32).repeat(3), causal_attend(3, 32))
    return hidden.detach()


@pytest.mark.parametrize("seed", [2, 3])
def test_hidden_rows_alone_are_turned_towards_the_teachers(seed: int) -> None:
    student, wanted, told = pupil(seed), rows_of(TEACHER), list[float]()
    before = float(functional.cosine_similarity(rows_of(student), wanted, dim=-1).mean())
    config = DistillConfig(**BASE, rate=1e-2, logit_share=0.0, hidden_share=2.0)
    taught(config, student).run(watch=lambda what, value, _: told.append(value) if what == "loss" else None)
    after = float(functional.cosine_similarity(rows_of(student), wanted, dim=-1).mean())
    assert abs(before) < 0.05
    assert after > before + 0.05
    assert told[0] == pytest.approx(2 * (1 - before), abs=0.1), "two shares of 1 - cosine"
    assert told[-1] < told[0] - 0.2


@pytest.mark.parametrize(
    ("asked", "authors"),
    [
        ({}, {"data"}),
        ({"taught_share": 1.0}, {"teacher"}),
        ({"own_share": 1.0}, {"student"}),
        ({"own_share": 0.4, "taught_share": 0.4}, {"data", "teacher", "student"}),
    ],
    ids=["data", "teacher", "student", "all three"],
)
def test_every_step_learns_from_text_of_the_author_asked_for(
    asked: dict[str, Any], authors: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, seen, writers = pupil(), list[Tensor](), list[tuple[Decoder, Tensor]]()

    def overheard(decoder: Decoder, *rest: Any) -> Tensor:
        text = write(decoder, *rest)
        writers.append((decoder, text))
        return text

    monkeypatch.setattr("burnish.compress.distill.write", overheard)
    distillation, found = taught(DistillConfig(**BASE, **asked, prompt=28), student), set[str]()
    hook = student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for _ in range(20):
        writers.clear()
        distillation.take_step()
        learned = seen[-1].view(4, 32)
        if not writers:
            assert all(is_within(row, TEXT.tokens) for row in learned)
            found.add("data")
            continue
        ((author, text),) = writers
        found.add("teacher" if author is TEACHER else "student")
        assert author in (TEACHER, student)
        assert torch.equal(learned, text[:, :-1]), "what was written is what is learned from"
        assert all(is_within(row, TEXT.tokens) for row in text[:, :28])
        assert not all(is_within(row, TEXT.tokens) for row in text)
    hook.remove()
    assert found == authors


def is_within(row: Tensor, tokens: Tensor) -> bool:
    """Whether a row (T,) stands somewhere in tokens (N,)."""
    return bool((tokens.unfold(0, len(row), 1) == row).all(1).any())


def held_out_losses(teach: Callable[[DistillConfig], Distillation], **asked: Any) -> tuple[float, float, float]:
    """Of a student before, after as many steps on the data alone, and after those on the teacher's distributions."""
    alone = teach(DistillConfig(**asked, logit_share=0.0, data_share=1.0)).run()
    distilled = teach(DistillConfig(**asked, logit_share=1.0, data_share=0.0)).run()
    assert alone[0] == distilled[0], "the same student"
    return alone[0].loss, alone[-1].loss, distilled[-1].loss


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_distilled_student_is_better_than_one_taught_by_the_data_alone(seed: int) -> None:
    """The teacher wrote the text: it knows of every token what the text shows one draw of."""
    before, alone, distilled = held_out_losses(
        lambda config: taught(config, pupil(seed)), **BASE | {"steps": 60}, rate=1e-2
    )
    assert distilled < 0.95 * alone
    assert alone < 0.95 * before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_so_it_is_with_the_built_in_model_as_teacher_of_a_text_it_never_saw(seed: int) -> None:
    """A student of the draft's shape, from random weights, and stories by Oscar Wilde."""
    path = locate("builtin")
    teacher, tokenizer = load_decoder(path).decoder, load_tokenizer(path)
    text = split(torch.tensor(tokenizer.encode(held_out_text().read_text())), 128)
    shape = load_decoder(locate("builtin-draft")).decoder.config

    def teach(config: DistillConfig) -> Distillation:
        student, generator = Decoder(shape), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.02, generator=generator)
        return Distillation(student, student, teacher, text, config)

    before, alone, distilled = held_out_losses(teach, steps=60, batch=4, length=128, look_every=60, rate=5e-3)
    assert distilled < alone - 0.02
    assert alone < before - 1


def test_who_watches_is_told_every_loss_and_every_look() -> None:
    told: list[tuple[str, float, int]] = []
    distillation = taught(DistillConfig(**BASE))
    looks = distillation.run(watch=lambda *point: told.append(point))
    losses = [(value, step) for what, value, step in told if what == "loss"]
    assert [step for _, step in losses] == list(range(1, 31))
    assert all(value > 0 for value, _ in losses)
    for what, at in (("held_out_loss", 1), ("held_out_divergence", 2)):
        assert [(step, value) for name, value, step in told if name == what] == [
            (look.step, look[at]) for look in looks
        ]
    assert taught(DistillConfig(**BASE)).run() == looks, "watching changes nothing"


def test_a_students_own_kind_of_text_is_written_by_it() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 256, (3, 4), generator=generator)
    written = write(TEACHER, prompts, 9, generator)
    assert written.shape == (3, 9)
    assert torch.equal(written[:, :4], prompts)
    again = write(TEACHER, prompts, 9, torch.Generator().manual_seed(5))
    assert torch.equal(again, write(TEACHER, prompts, 9, torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(
    "asked",
    [{}, {"hidden_share": 1.0}, {"taught_share": 0.5, "prompt": 28}, {"own_share": 0.5, "prompt": 28}],
    ids=str,
)
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, asked: dict[str, Any]) -> None:
    config = DistillConfig(**BASE, **asked)
    whole = pupil()
    expected = taught(config, whole).run()

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 17:
            raise Stopped

    with pytest.raises(Stopped):
        taught(config).run(progress=stop, save_to=tmp_path / "state.pt")
    again = pupil(seed=99)  # its weights come from the file
    steps: list[int] = []
    looks = taught(config, again).run(progress=lambda done, _: steps.append(done), save_to=tmp_path / "state.pt")
    assert steps[0] == 11
    assert looks == expected
    ours, theirs = again.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_teacher_and_the_text_are_left_alone() -> None:
    before = copy.deepcopy(TEACHER.state_dict())
    taught(DistillConfig(**BASE)).run()
    after = TEACHER.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in TEACHER.parameters())


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"steps": 0}, "steps 0 is too small"),
        ({"temperature": 0.0}, "above 0"),
        ({"skew": 1.5}, r"skew 1\.5 is no share"),
        ({"own_share": 0.6, "taught_share": 0.6}, r"make 1\.2"),
        ({"logit_share": 0.0}, "all shares of the loss are 0"),
        ({"data_share": -1.0}, "negative"),
    ],
)
def test_settings_that_teach_nothing_are_refused(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(BadSettings, match=match):
        DistillConfig(**asked)


def test_too_little_text_says_how_much_is_needed() -> None:
    with pytest.raises(BadSettings, match=r"100 tokens are too few to learn from\. Give 132 or more"):
        split(torch.arange(100), 32)


def test_a_packed_student_cannot_learn() -> None:
    student = tiny_decoder()
    with pytest.raises(BadSettings, match="nothing to learn with"):
        Distillation(student, student, TEACHER, TEXT, DistillConfig(**BASE))
