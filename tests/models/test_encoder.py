"""Encoders against transformers: the same rows, from the same folders, whatever lies beside in the flat rows."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from burnish.core.errors import BadCheckpoint, UnknownFamily
from burnish.models.encoder import full_attend
from burnish.models.encoder_checkpoint import load_encoder, save_encoder

TEXTS = [torch.randint(0, 96, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (1, 7, 30, 48)]


def made_by_transformers(folder: Path, *, head: bool = False, **changes: Any) -> Any:
    """A random BERT, saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle, not ours
        from transformers import BertConfig, BertForMaskedLM, BertModel

        torch.manual_seed(3)
        sizes = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        sizes |= {"intermediate_size": 128, "max_position_embeddings": 48}
        model = (BertForMaskedLM if head else BertModel)(BertConfig(**(sizes | changes))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.save_pretrained(folder)
    return model.bert if head else model


@torch.no_grad()
def rows_of(model: Any, text: list[int]) -> Tensor:
    found: Tensor = model(torch.tensor([text])).last_hidden_state[0]
    return found


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"type_vocab_size": 1}])
@pytest.mark.parametrize("head", [False, True])
def test_every_text_has_the_rows_it_has_alone_in_transformers(
    tmp_path: Path, head: bool, changes: dict[str, Any]
) -> None:
    theirs = made_by_transformers(tmp_path, head=head, **changes)
    ours = load_encoder(tmp_path).encoder
    lengths = [len(text) for text in TEXTS]
    tokens = torch.tensor([token for text in TEXTS for token in text])
    positions = torch.cat([torch.arange(length) for length in lengths])
    together = ours(tokens, positions, full_attend(lengths))
    for text, rows in zip(TEXTS, torch.split(together, lengths), strict=True):
        expected = rows_of(theirs, text)
        assert (rows - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [True, False])
def test_embeddings_are_pooled_as_the_folder_says(tmp_path: Path, pooling: str, normalized: bool) -> None:
    theirs = made_by_transformers(tmp_path)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalized else [])]
    listed = [{"idx": i, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    found = load_encoder(tmp_path).encoder.embed(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        rows = rows_of(theirs, text)
        expected = rows.mean(0) if pooling == "mean" else rows[0]
        expected = expected / expected.norm() if normalized else expected
        assert torch.allclose(row, expected, atol=1e-5)


def test_what_is_saved_is_loaded_and_opened_by_transformers(tmp_path: Path) -> None:
    made_by_transformers(tmp_path / "a")
    loaded = load_encoder(tmp_path / "a")
    (tmp_path / "b").mkdir()
    save_encoder(loaded, tmp_path / "b")
    again = load_encoder(tmp_path / "b").encoder
    assert again.config == loaded.encoder.config
    assert torch.equal(again.embed(TEXTS), loaded.encoder.embed(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pooler, which embeddings do without, is made anew
        from transformers import BertModel

        theirs = BertModel.from_pretrained(tmp_path / "b").eval()
    assert torch.allclose(rows_of(theirs, TEXTS[2]).mean(0), again.embed(TEXTS)[2], atol=1e-5)


def test_every_fault_of_the_tensors_is_told_at_once(tmp_path: Path) -> None:
    made_by_transformers(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.key.bias"]
    tensors["encoder.layer.0.output.dense.weight"] = torch.zeros(64, 100)
    tensors["encoder.layer.9.output.dense.bias"] = torch.zeros(64)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="3 tensors do not fit") as fault:
        load_encoder(tmp_path)
    for name in ("missing encoder.layer.1.attention", "unexpected encoder.layer.9", r"shape [64, 100], expected [64"):
        assert name in str(fault.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "llama"}, "'llama' is no encoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish'"),
        ({"num_attention_heads": 5}, "divisor of hidden_size 64"),
    ],
)
def test_configurations_that_burnish_cannot_compute_are_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    made_by_transformers(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | changes))
    with pytest.raises((BadCheckpoint, UnknownFamily), match=match):
        load_encoder(tmp_path)


def test_poolings_that_burnish_does_not_know_are_refused(tmp_path: Path) -> None:
    made_by_transformers(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(BadCheckpoint, match="asks for pooling_mode_max_tokens"):
        load_encoder(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match="asks for Dense"):
        load_encoder(tmp_path)
