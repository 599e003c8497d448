"""Decoders as ONNX: ONNX Runtime computes what we do, at once or token by token, whatever lies beside a text."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from burnish import LLM
from burnish.cli.compress import write_variant
from burnish.cli.export import write_export
from burnish.compress.export import onnx as onnx_target
from burnish.compress.export.onnx_decoder import CONTRIB
from burnish.core.errors import BadSettings
from burnish.core.types import Sampling
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import QualityConfig, fed_windows, prepare, token_losses
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.golden import golden_logits
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from tests.models.oracle import SEQUENCES, VARIANTS, difference, logits, make, saved
from tests.tiny import tiny_decoder

PROMPTS = [[1, 5, 9, 200, 3], [7] * 20, list(range(40))]
FLOAT_LEVEL = 1  # accuracy_level: inputs stay floats


def silent(*_: object) -> None:
    """Nobody watches."""


class Session:
    """A file as a generator of ONNX Runtime's feeds it."""

    def __init__(self, file: Path, level: int | None = None) -> None:
        model = onnx.load(file)
        onnx.checker.check_model(model)
        for node in model.graph.node if level is not None else ():
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = level
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._kept = {
            one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32)
            for one in self._session.get_inputs()
            if one.name.startswith("past")
        }

    def begin(self, texts: int = 1) -> None:
        """Forget what came before."""
        self._past = {name: np.repeat(empty, texts, 0) for name, empty in self._kept.items()}

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """ids (B, L) and the mask of all so far (B, P + L) -> logits (B, L, V)."""
        names = [one.name for one in self._session.get_outputs()]
        feed = {"input_ids": ids, "attention_mask": mask} | self._past
        found = dict(zip(names, self._session.run(names, feed), strict=True))
        self._past = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        made: NDArray[np.float32] = found["logits"]
        return made

    def whole(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits after each of the tokens (L, V)."""
        self.begin()
        rows: NDArray[np.float32] = self(np.array([tokens]), np.ones((1, len(tokens)), np.int64))[0]
        return rows

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The likeliest tokens, one after the other."""
        found = [int(self.whole(prompt)[-1].argmax())]
        while len(found) < count:
            mask = np.ones((1, len(prompt) + len(found)), np.int64)
            found.append(int(self(np.array([found[-1:]]), mask)[0, -1].argmax()))
        return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_as_transformers_computes_it(name: str, models: Path, tmp_path: Path) -> None:
    write_export(saved(name, models), tmp_path / "out.onnx", "onnx", silent)
    session, theirs = Session(tmp_path / "out.onnx"), make(VARIANTS[name])
    for tokens in SEQUENCES:
        assert difference(torch.from_numpy(session.whole(tokens)), logits(theirs, tokens)) < 1e-4


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2"])
def test_token_by_token_is_what_it_is_at_once(name: str, models: Path, tmp_path: Path) -> None:
    write_export(saved(name, models), tmp_path / "out.onnx", "onnx", silent)
    session, tokens = Session(tmp_path / "out.onnx"), SEQUENCES[2]
    whole = session.whole(tokens)
    session.begin()
    begun = session(np.array([tokens[:9]]), np.ones((1, 9), np.int64))
    steps = [session(np.array([tokens[at : at + 1]]), np.ones((1, at + 1), np.int64)) for at in range(9, len(tokens))]
    np.testing.assert_allclose(np.concatenate([begun, *steps], 1)[0], whole, atol=2e-5 * np.abs(whole).max())


def test_a_shorter_text_beside_a_longer_one(models: Path, tmp_path: Path) -> None:
    write_export(saved("llama", models), tmp_path / "out.onnx", "onnx", silent)
    session, (short, long) = Session(tmp_path / "out.onnx"), SEQUENCES[1:3]
    padded = short + [0] * (len(long) - len(short))
    session.begin(2)
    mask = np.array([[1] * len(short) + [0] * (len(long) - len(short)), [1] * len(long)])
    both = session(np.array([padded, long]), mask)
    np.testing.assert_allclose(both[0, : len(short)], session.whole(short), atol=2e-4)
    np.testing.assert_allclose(both[1], session.whole(long), atol=2e-4)


MADE = {
    **{recipe: f'name = "rtn"\nformats = ["{recipe}"]' for recipe in ("int8", "int4-g32", "int4-g64", "int3-g64")},
    "zero points": 'name = "rtn"\nformats = ["int4-g32-asym"]',
    "zero points of two bits": 'name = "rtn"\nformats = ["int2-g32-asym"]',
    "channels": 'name = "rtn"\nformats = ["int4-channel"]\nhead = "int3-channel"',
    "channels with zero points": 'name = "rtn"\nformats = ["int4-channel-asym"]\nhead = "int2-channel-asym"',
    "eight bits with zero points": 'name = "rtn"\nformats = ["int8-g32-asym"]\nhead = "int8-channel-asym"',
    "sparse": 'name = "magnitude"\nsparsity = "2:4"\n[[pass]]\nname = "rtn"\nformats = ["int8-2:4"]',
}


@pytest.mark.parametrize("made", MADE)
def test_integers_are_multiplied_as_they_are_stored(made: str, tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(tied_embeddings=False), tmp_path / "model", family="llama", dtype=torch.bfloat16)
    (tmp_path / "mine.toml").write_text(f"[[pass]]\n{MADE[made]}\n")
    write_variant(tmp_path / "model", tmp_path / "small", str(tmp_path / "mine.toml"), silent)
    told = write_export(tmp_path / "small", tmp_path / "out.onnx", "onnx", silent)
    assert told.num_rounded == 0
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert operators.count("MatMulNBits") == 2 * 7 + 1
    ours = golden_logits(load_decoder(tmp_path / "small").decoder, PROMPTS)
    exact, fast = Session(tmp_path / "out.onnx", FLOAT_LEVEL), Session(tmp_path / "out.onnx")
    for prompt, wanted in zip(PROMPTS, ours, strict=True):
        np.testing.assert_allclose(exact.whole(prompt)[-1], wanted, atol=1e-4 * np.abs(wanted).max())
        assert (fast.whole(prompt)[-1] - wanted).std() < 0.1 * wanted.std(), "only inputs are rounded"


@pytest.mark.parametrize("kind", ["f32", "int8"])
def test_other_types_can_be_asked_for(kind: str, tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(), tmp_path / "model", family="llama", dtype=torch.bfloat16)
    write_variant(tmp_path / "model", tmp_path / "small", "int8", silent)
    write_export(tmp_path / "small", tmp_path / "out.onnx", "onnx", silent, type=kind)
    domains = {node.domain for node in onnx.load(tmp_path / "out.onnx").graph.node if node.op_type != "FusedMatMul"}
    assert domains == {"", CONTRIB}, "attention"
    ours = golden_logits(load_decoder(tmp_path / "small").decoder, PROMPTS)
    session = Session(tmp_path / "out.onnx")
    share = {"f32": 1e-4, "int8": 0.2}[kind]
    for prompt, wanted in zip(PROMPTS, ours, strict=True):
        assert np.abs(session.whole(prompt)[-1] - wanted).std() < share * wanted.std()


@pytest.mark.parametrize("recipe", ["int8", "int4-g32"])
def test_the_built_in_model_loses_nothing_more(recipe: str, tmp_path: Path) -> None:
    """Perplexity within half a percent of ours, the same greedy words where inputs are not rounded in other groups."""
    write_variant(locate("builtin"), tmp_path / "small", recipe, silent)
    told = write_export(tmp_path / "small", tmp_path / "out.onnx", "onnx", silent)
    assert told.bytes < 1.15 * sum(file.stat().st_size for file in (tmp_path / "small").glob("*.safetensors"))
    tokenizer, decoder = load_tokenizer(tmp_path / "small"), load_decoder(tmp_path / "small").decoder
    config = QualityConfig(context=128, stride=64, max_tokens=1500)
    passage = prepare(read_corpus(held_out_text()), tokenizer, decoder.config, config)
    exact, fast = Session(tmp_path / "out.onnx", FLOAT_LEVEL), Session(tmp_path / "out.onnx")
    ours = token_losses(decoder, passage)
    theirs = np.concatenate([_losses(fast, fed[0].tolist(), scored) for fed, [scored] in fed_windows(passage, 1)])
    assert abs(float(np.exp((theirs - ours).mean()) - 1)) < 0.005
    beginnings = ["Once upon a time", "The dog was"]
    made = LLM(str(tmp_path / "small")).generate(beginnings, Sampling(max_tokens=12, temperature=0))
    for beginning, output in zip(beginnings, made, strict=True):
        assert exact.greedy(tokenizer.encode(beginning), 12) == output.token_ids


def _losses(session: Session, tokens: list[int], num_scored: int) -> NDArray[np.float64]:
    """Of the last tokens of a window."""
    scores = torch.from_numpy(session.whole(tokens)[-num_scored - 1 : -1]).log_softmax(-1).numpy()
    found: NDArray[np.float64] = -scores[np.arange(num_scored), tokens[-num_scored:]].astype(np.float64)
    return found


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tiny_decoder(), tmp_path / "model", family="llama", dtype=torch.bfloat16)
    monkeypatch.setattr(onnx_target, "MOST_BYTES", 1000)
    with pytest.raises(BadSettings, match="an ONNX file holds at most 1000"):
        write_export(tmp_path / "model", tmp_path / "out.onnx", "onnx", silent)
    assert not list(tmp_path.glob("*.onnx"))


def test_heads_that_onnx_runtime_does_not_take_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(head_dim=24), tmp_path / "model", family="llama", dtype=torch.bfloat16)
    with pytest.raises(BadSettings, match="heads are 24 wide, and ONNX Runtime's attention takes multiples of 16"):
        write_export(tmp_path / "model", tmp_path / "out.onnx", "onnx", silent)
