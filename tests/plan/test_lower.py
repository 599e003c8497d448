"""What lowering makes of a decoder: few operations and buffers, shared memory, rows quantized for who reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.kernels.tiles import Tiles, unpack
from burnish.models.checkpoint import load_decoder
from burnish.plan.lower import lower, lowered
from burnish.plan.ops import (
    LOGITS,
    Activate,
    Attend,
    Embed,
    Gate,
    Gather,
    Keys,
    Linear,
    Norm,
    Operation,
    Plan,
    Softcap,
)
from tests.models import oracle
from tests.plan.rounded import round_layers
from tests.tiny import tiny_decoder

Op = TypeVar("Op")
LAYER = [Norm, Linear, Keys, Attend, Linear, Norm, Linear, Gate, Linear]


def of(plan: Plan, kind: type[Op]) -> list[Op]:
    return [op for op in plan.operations if isinstance(op, kind)]


def kinds(operations: tuple[Operation, ...]) -> list[type]:
    return [type(op) for op in operations]


def tiles_of(plan: Plan) -> Iterator[Tiles]:
    for op in plan.operations:
        yield from (value for value in vars(op).values() if isinstance(value, Tiles))


def test_a_llama_is_nine_operations_a_layer() -> None:
    plan = lower(tiny_decoder())
    assert kinds(plan.operations) == [Embed, *LAYER, *LAYER, Gather, Norm, Linear]
    assert plan.operations[-1].out == LOGITS  # type: ignore[union-attr]
    assert plan.shape == (259, 512, 2, 2, 16)
    assert plan.weights == "dense"


def test_q_k_v_and_gate_and_up_are_one_operation_each() -> None:
    decoder = tiny_decoder()
    qkv, out, gate_up, down = of(lower(decoder), Linear)[:4]
    block: Any = decoder.layers[0]
    members = (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj)
    assert np.array_equal(unpack(qkv.weight), torch.cat([layer.weight for layer in members]))
    assert np.array_equal(unpack(gate_up.weight), torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight]))
    assert np.array_equal(unpack(out.weight), block.attn.o_proj.weight)
    assert np.array_equal(unpack(down.weight), block.mlp.down_proj.weight)
    assert (out.add, down.add, qkv.add, gate_up.add) == (True, True, False, False)


def test_biases_are_joined_as_their_weights() -> None:
    decoder = tiny_decoder(qkv_bias=True, out_bias=True, mlp_bias=True)
    attn: Any = decoder.layers[1].attn
    qkv, out = of(lower(decoder), Linear)[4:6]
    biases = [layer.bias for layer in (attn.q_proj, attn.k_proj, attn.v_proj)]
    assert qkv.bias is not None
    assert np.array_equal(qkv.bias, torch.cat(biases))
    assert out.bias is not None
    assert np.array_equal(out.bias, attn.o_proj.bias)


def test_outputs_that_end_inside_a_panel_lie_side_by_side() -> None:
    decoder = tiny_decoder(num_heads=4, num_kv_heads=1, head_dim=12, inner_size=72)
    linears = of(lower(decoder), Linear)
    assert [op.column for op in linears[:3]] == [0, 48, 60], "q is three whole panels, k is none"
    assert [op.weight.outputs for op in linears[:3]] == [48, 12, 12]
    assert [op.column for op in linears[4:6]] == [0, 72]


@pytest.mark.parametrize("name", ["int8", "int4-g32", "int4-g64"])
def test_integers_stay_integers(name: str) -> None:
    decoder = round_layers(tiny_decoder(), name)
    plan = lower(decoder)
    block: Any = decoder.layers[0]
    down = of(plan, Linear)[3]
    assert down.weight.kind == name[:4]
    assert down.weight.group == (0 if name == "int8" else int(name[6:]))
    assert np.array_equal(unpack(down.weight), block.mlp.down_proj.dense_weight())
    assert plan.weights == name
    assert len(of(plan, Linear)) == 4 * 2 + 1


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("zeros", ["", "-asym"])
def test_few_bits_of_a_channel_stay_integers(bits: int, zeros: str) -> None:
    """A scale beside the panel where there is no zero point; where there is one, a group of all inputs."""
    decoder = round_layers(tiny_decoder(inner_size=100), f"int{bits}-channel{zeros}")
    block: Any = decoder.layers[1]
    plan = lower(decoder)
    qkv, down = of(plan, Linear)[0], of(plan, Linear)[-2]
    assert (qkv.weight.kind, qkv.weight.group) == ("int4", 64 if zeros else 0)
    assert (down.weight.kind, down.weight.group) == ("int4", 128 if zeros else 0)
    assert np.array_equal(unpack(down.weight), block.mlp.down_proj.dense_weight())
    assert {op.activations for op in of(plan, Linear)[:-1]} == {"int8"}
    check_readers(plan)


@pytest.mark.parametrize("name", ["int8-g32-asym", "int8-channel-asym"])
def test_eight_bits_with_zero_points_become_the_floats_they_stand_for(name: str) -> None:
    decoder = round_layers(tiny_decoder(), name)
    plan, block = lower(decoder), decoder.layers[1]
    assert plan.weights == name
    down = of(plan, Linear)[7]
    assert down.weight.kind == "f32"
    assert np.array_equal(unpack(down.weight), block.get_submodule("mlp.down_proj").dense_weight())  # type: ignore[operator]
    assert {op.activations for op in of(plan, Linear)} == {"f32"}
    check_readers(plan)


def test_layers_stored_differently_are_not_joined() -> None:
    decoder = round_layers(tiny_decoder(), "int4-g32", part="v_proj")
    q, k, v = of(lower(decoder), Linear)[:3]
    assert [op.weight.kind for op in (q, k, v)] == ["f32", "f32", "int4"]
    assert {op.activations for op in (q, k, v)} == {"f32"}, "who shares an input shares its activations"
    check_readers(lower(decoder))


@pytest.mark.parametrize(("dtype", "kind"), [(torch.bfloat16, "bf16"), (torch.float16, "f16"), (torch.float32, "f32")])
def test_floats_take_no_more_bytes_than_they_need(dtype: torch.dtype, kind: str) -> None:
    decoder = tiny_decoder().to(dtype).float()
    assert {tiles.kind for tiles in tiles_of(lower(decoder))} == {kind}


# --- activations ---------------------------------------------------------------------------------------------------


def check_readers(plan: Plan) -> None:
    """Whoever reads int8 rows finds that the buffer's last writer quantized them, and nobody else does."""
    quantized: dict[int, bool] = {}
    for op in plan.operations:
        if isinstance(op, Linear):
            assert quantized.get(op.source, False) == (op.activations == "int8"), op
            assert op.activations == "f32" or op.weight.kind in ("int4", "int8")
        if isinstance(op, Norm | Attend | Gate | Activate):
            assert not quantized.get(op.source, False), op
        if isinstance(op, Norm | Attend | Gate | Activate | Linear | Embed | Gather):
            quantized[op.out] = getattr(op, "quantized", False)


def test_integer_weights_take_int8_activations() -> None:
    plan = lower(round_layers(tiny_decoder(), "int4-g32"))
    assert [op.activations for op in of(plan, Linear)] == ["int8"] * 8 + ["f32"]
    assert [op.quantized for op in of(plan, Norm)] == [True] * 4 + [False]
    assert all(op.quantized for op in of(plan, Attend))
    assert all(op.quantized for op in of(plan, Gate))
    check_readers(plan)


def test_named_layers_keep_float_activations() -> None:
    decoder = round_layers(tiny_decoder(), "int8")
    plan = lower(decoder, float_activations=["layers.1.mlp.down_proj", "layers.0.attn.k_proj"])
    assert [op.activations for op in of(plan, Linear)] == [
        *("f32", "int8", "int8", "int8"),
        *("int8", "int8", "int8", "f32"),
        "f32",
    ]
    assert [op.quantized for op in of(plan, Norm)] == [False, True, True, True, False]
    assert [op.quantized for op in of(plan, Gate)] == [True, False]
    check_readers(plan)


@pytest.mark.parametrize(
    ("name", "words"), [("layers.1.mlp.down_prj", "'layers.1.mlp.down_proj'"), ("norm", "no linear layer 'norm'")]
)
def test_a_name_no_layer_has_is_refused(name: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        lowered(tiny_decoder(), float_activations=[name])


def test_a_quantized_head_reads_quantized_rows() -> None:
    plan = lower(round_layers(tiny_decoder(tied_embeddings=False), "int8", part="lm_head"))
    assert of(plan, Linear)[-1].activations == "int8"
    assert of(plan, Norm)[-1].quantized
    check_readers(plan)


# --- memory --------------------------------------------------------------------------------------------------------


def test_a_tied_head_is_the_embedding() -> None:
    tied, own = (lower(tiny_decoder(tied_embeddings=tied)) for tied in (True, False))
    assert of(tied, Linear)[-1].weight is of(tied, Embed)[0].table
    assert of(own, Linear)[-1].weight is not of(own, Embed)[0].table
    assert own.num_bytes - tied.num_bytes == of(own, Embed)[0].table.data.nbytes


def test_rotary_tables_are_shared_by_layers_that_rotate_alike() -> None:
    plan = lower(tiny_decoder(num_layers=4, windows=(8, None, 8, None), window_rope_theta=100.0))
    keys = of(plan, Keys)
    assert [op.cos is keys[0].cos for op in keys] == [True, False, True, False]
    assert keys[1].cos is keys[3].cos
    assert keys[1].sin is keys[3].sin
    assert keys[0].cos is not None
    assert keys[0].cos.shape == (512, 8)
    assert [op.window for op in of(plan, Attend)] == [8, None, 8, None]


def test_four_buffers_no_wider_than_they_must_be() -> None:
    assert lower(tiny_decoder()).buffers == (64, 64, 256, 128)
    wide = lower(tiny_decoder(head_dim=32, inner_size=96, gated_mlp=False)).buffers
    assert wide == (64, 64, 4 * 32 + 2 * 2 * 32, 128)


def test_operations_come_one_at_a_time() -> None:
    decoder = tiny_decoder()
    operations = iter(lowered(decoder).operations)
    assert isinstance(next(operations), Embed)
    with torch.no_grad():
        decoder.get_parameter("layers.1.mlp.down_proj.weight").fill_(7.0)
    last = [op for op in operations if isinstance(op, Linear)][-2]
    assert (unpack(last.weight) == 7.0).all(), "packed when its turn came"


# --- mechanisms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_reads_what_was_written(name: str, root: Path) -> None:
    decoder = load_decoder(oracle.saved(name, root)).decoder
    plan = lower(decoder)
    written: dict[int, int] = {}
    for op in plan.operations:
        for buffer in (getattr(op, "source", None), getattr(op, "buffer", None)):
            assert buffer is None or buffer in written, op
        if not isinstance(op, Keys | Softcap):
            written[op.out] = 1
    assert LOGITS in written
    assert len(of(plan, Keys)) == len(of(plan, Attend)) == decoder.config.num_layers
    check_readers(plan)


def test_the_sandwich_norms_of_gemma_add_to_the_stream(root: Path) -> None:
    plan = lower(load_decoder(oracle.saved("gemma3 capped", root)).decoder)
    layer = [Norm, Linear, Keys, Attend, Linear, Norm, Norm, Linear, Gate, Linear, Norm]
    assert kinds(plan.operations) == [Embed, *layer * 3, Gather, Norm, Linear, Softcap]
    assert [op.add for op in of(plan, Norm)] == [False, True] * 6 + [False]
    assert not any(op.add for op in of(plan, Linear))
    assert of(plan, Embed)[0].scale == 8.0
    assert of(plan, Softcap)[0] == plan.operations[-1]
    assert of(plan, Softcap)[0].cap == 3.0
    keys = of(plan, Keys)[0]
    assert keys.q_norm is not None
    assert keys.q_norm.shape == (16,)


def test_gpt2_has_positions_biases_and_no_gate(root: Path) -> None:
    decoder = load_decoder(oracle.saved("gpt2", root)).decoder
    plan = lower(decoder)
    layer = [Norm, Linear, Keys, Attend, Linear, Norm, Linear, Activate, Linear]
    assert kinds(plan.operations) == [Embed, *layer * 3, Gather, Norm, Linear]
    positions = of(plan, Embed)[0].positions
    assert positions is not None
    assert np.array_equal(unpack(positions), decoder.embed_positions.weight)
    assert all(op.kind == "layer" and op.bias is not None for op in of(plan, Norm))
    assert all(op.bias is not None for op in of(plan, Linear)[:-1])
    assert of(plan, Keys)[0].cos is None


def test_the_offset_of_a_norm_is_in_its_weight() -> None:
    decoder = tiny_decoder(norm_offset=1.0, qk_norm=True)
    plan = lower(decoder)
    assert np.array_equal(of(plan, Norm)[-1].weight, decoder.norm.weight + 1.0)
    attn: Any = decoder.layers[0].attn
    keys = of(plan, Keys)[0]
    assert keys.k_norm is not None
    assert np.array_equal(keys.k_norm, attn.k_norm.weight + 1.0)


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.1.attn.v_proj.weight"])
def test_a_weight_that_is_no_number_is_named(name: str) -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.get_parameter(name)[3, 5] = torch.nan
    with pytest.raises(BadCheckpoint, match=name.removesuffix(".weight")):
        lower(decoder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["norm.weight", "layers.1.attn_norm.weight", "layers.0.attn.k_proj.bias"])
def test_a_norm_or_bias_that_is_no_number_is_named(name: str, value: float) -> None:
    decoder = tiny_decoder(qkv_bias=True)
    with torch.no_grad():
        decoder.get_parameter(name)[3] = value
    with pytest.raises(BadCheckpoint, match=f"{name} holds"):
        lowered(decoder)


def test_a_scale_no_float16_holds_is_named() -> None:
    decoder = round_layers(tiny_decoder(), "int4-g32")
    decoder.get_buffer("layers.0.mlp.gate_proj.weight_scale")[7, 1] = 1e6
    with pytest.raises(BadCheckpoint, match=r"layers\.0\.mlp\.gate_proj: scale 1e\+06"):
        lower(decoder)
