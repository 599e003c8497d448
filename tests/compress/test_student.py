"""A student made from a config.json: born of the seed alone, taught, written as a model of its own family."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.cli.compress import Asked, write_variant
from burnish.compress.calibration import CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.memory import plan_memory, text_size
from burnish.compress.passes.distill import Distill
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply, check
from burnish.core.errors import BadSettings, BurnishError, NotFound, UnknownFamily
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.decoder import DecoderConfig
from burnish.models.families import FAMILIES, write_config
from burnish.models.golden import golden_logits
from burnish.registry.artifact import read_manifest
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_config, tiny_decoder

SHORT = "steps = 24\nlength = 32\nlook_every = 12\nrate = 0.01\n"
LATER = '[[pass]]\nname = "gptq"\nformats = ["int8"]\n'


def recipe_of(folder: Path, config: DecoderConfig, family: str = "llama", later: str = "", **words: Any) -> str:
    """A recipe in whose folder the student's config.json lies."""
    (folder / "small").mkdir(exist_ok=True)
    (folder / "small" / "config.json").write_text(json.dumps(write_config(FAMILIES[family], config) | words))
    file = folder / "mine.toml"
    file.write_text(f'[[pass]]\nname = "distill"\nstudent = "small/config.json"\n{SHORT}{later}')
    return str(file)


def small(**changes: Any) -> DecoderConfig:
    return tiny_config(num_layers=1, hidden_size=32, inner_size=64, num_heads=2, num_kv_heads=1, **changes)


def test_a_new_student_learns_to_give_what_its_teacher_gives(tmp_path: Path) -> None:
    teacher = tiny_decoder(seed=1)
    tokens = torch.randint(0, 256, (2048,), generator=torch.Generator().manual_seed(0))
    data = draw(tokens, 64, CalibrationConfig(samples=32, length=64))
    recipe = find_recipe(recipe_of(tmp_path, small()))
    looks: dict[int, float] = {}

    def watch(what: str, value: float, step: int) -> None:
        if what == "distill/held_out_divergence":
            looks[step] = value

    before = golden_logits(teacher, ((1, 2, 3),))
    made = apply(teacher, recipe, data, watch=watch).decoder
    assert made.config == small()
    assert looks[24] < 0.97 * looks[0]
    assert (golden_logits(teacher, ((1, 2, 3),)) == before).all()
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_it_is_born_of_its_seed(tmp_path: Path) -> None:
    student = find_recipe(recipe_of(tmp_path, small())).student
    assert student is not None
    first, again, other = (student.make(seed).embed_tokens.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_student_of_another_family_is_written_as_one_and_rounded(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    save_checkpoint(tiny_decoder(seed=1, tied_embeddings=False), parent, family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(parent)
    words = json.loads((parent / "config.json").read_text()) | {"eos_token_id": 7, "bos_token_id": 5}
    (parent / "config.json").write_text(json.dumps(words))
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox. " * 300)
    config = small(qkv_bias=True, tied_embeddings=True)
    recipe = recipe_of(tmp_path, config, "qwen2", LATER, eos_token_id=99)
    asked = Asked(calibration=text, sampling=CalibrationConfig(samples=32, length=64))
    made = write_variant(parent, tmp_path / "out", recipe, lambda *_: None, asked)
    loaded = load_decoder(tmp_path / "out")
    assert (loaded.family, loaded.decoder.config, loaded.weights) == ("qwen2", config, "int8")
    assert (loaded.raw_config["eos_token_id"], loaded.raw_config["bos_token_id"]) == (7, 5), "those of the tokenizer"
    assert made.bytes_after < made.bytes_before / 2
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.recipe == "mine.toml"


def test_the_memory_planned_is_that_of_the_student(tmp_path: Path) -> None:
    teacher = tiny_decoder(hidden_size=256, inner_size=1024)
    chain, size = decoder_chain(teacher), text_size(decoder_chain(teacher), 4096)
    fresh = plan_memory(chain, teacher, find_recipe(recipe_of(tmp_path, small())), size)
    equal = plan_memory(chain, teacher, find_recipe(recipe_of(tmp_path, teacher.config)), size)
    assert fresh.training < 0.5 * equal.training


def test_students_that_cannot_learn_are_refused_in_one_line(tmp_path: Path) -> None:
    teacher = tiny_decoder()
    for config, line in (
        (small(vocab_size=300), r"a vocabulary of 300 tokens, its teacher of 259\. Write the teacher's into"),
        (small(max_positions=64), r"sees 64 tokens, its teacher 512\. Let the student's config.json allow as many"),
    ):
        with pytest.raises(BadSettings, match=line) as refused:
            check(teacher, find_recipe(recipe_of(tmp_path, config)), has_data=True)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ('{"model_type": "lama"}', UnknownFamily, r"unknown model family 'lama'\. Did you mean 'llama'"),
        ("[1]", BurnishError, "holds list, not an object"),
        (None, NotFound, r"config\.json' does not exist"),
    ],
)
def test_a_file_that_describes_no_student_is_named(
    tmp_path: Path, text: str | None, kind: type[BurnishError], line: str
) -> None:
    recipe = recipe_of(tmp_path, small())
    file = tmp_path / "small" / "config.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(kind, match=line):
        find_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[pass]]\nname = "distill"\nstudent = 3', r"student = 3 is no path\. Write"),
        (
            '[[pass]]\nname = "shrink"\ninner = 0.5\n[[pass]]\nname = "distill"\nstudent = "small/config.json"',
            "distill has a student of its own, what comes before it is in vain. Put distill first",
        ),
        ('[[pass]]\nname = "distill"', "nothing to teach, .* or give distill a student"),
    ],
)
def test_a_student_stands_where_it_can(tmp_path: Path, text: str, line: str) -> None:
    recipe = Path(recipe_of(tmp_path, small()))
    recipe.write_text(text)
    with pytest.raises(BadSettings, match=line):
        find_recipe(str(recipe))


def test_a_folder_stands_for_its_config(tmp_path: Path) -> None:
    recipe = Path(recipe_of(tmp_path, small()))
    recipe.write_text(recipe.read_text().replace("small/config.json", "small"))
    first = find_recipe(str(recipe)).passes[0]
    assert isinstance(first, Distill)
    assert first.student is not None
    assert first.student.config == small()
