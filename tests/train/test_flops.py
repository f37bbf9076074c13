"""Operations of a token against what XLA counts, and the peaks of devices by jax's names for them."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.train.flops import flops_per_token, peak_flops

# one layer, because XLA counts the body of a loop once
SHAPE = TransformerConfig(
    vocab_size=512, embed_dim=128, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=32, hidden_dim=384
)
LENGTH = 64
SQUARE = 2 * LENGTH - 1
"""A causal document in which a query sees LENGTH keys on average: in the model's one tile all pairs are
computed, and the mask applied to them.
"""


def counted_by_xla(config: TransformerConfig, *, weights_trained: bool = True) -> float:
    """Operations of a token in the model's own gradient."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))

    def loss(table, params, tokens):
        if table is not None:
            params["embed"]["table"] = table
        return jnp.mean(nnx.merge(graphdef, params).logits(tokens) ** 2)

    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    if weights_trained:
        lowered = jax.jit(jax.grad(loss, argnums=1)).lower(None, shapes, tokens)
    else:
        lowered = jax.jit(jax.grad(loss, argnums=0)).lower(shapes["embed"]["table"], shapes, tokens)
    return lowered.cost_analysis()["flops"] / LENGTH


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vocab_size": 2048},
        {"hidden_dim": 1024},
        {"num_heads": 8, "num_kv_heads": 8},
        {"num_kv_heads": 1, "head_dim": 64},
        {"tie_embeddings": True},
    ],
    ids=str,
)
def test_a_token_costs_what_xla_counts(changes):
    config = replace(SHAPE, **changes)
    # the rest is norms, softmax and the scores that the backward pass computes again
    assert 1 < counted_by_xla(config) / flops_per_token(config, SQUARE) < 1.06


def test_matrices_that_stay_have_no_gradient():
    ratio = counted_by_xla(SHAPE, weights_trained=False) / flops_per_token(
        SHAPE, SQUARE, weights_trained=False
    )
    assert 1 < ratio < 1.08
    assert flops_per_token(SHAPE, SQUARE, weights_trained=False) < 0.8 * flops_per_token(SHAPE, SQUARE)


def test_attention_costs_what_xla_counts_of_its_products():
    heads = 4
    width = 32
    length = 128

    def scores_and_values(q, k, v):
        return jnp.sum(jnp.einsum("NTS,NSH->NTH", jnp.einsum("NTH,NSH->NTS", q, k), v))

    array = jax.ShapeDtypeStruct((heads, length, width), jnp.float32)
    xla = jax.jit(jax.grad(scores_and_values, argnums=(0, 1, 2))).lower(array, array, array)
    # a sum's gradient is known beforehand, so its value is not computed: five products and not six
    expected = xla.cost_analysis()["flops"] / length * 6 / 5
    config = replace(SHAPE, num_heads=heads, num_kv_heads=heads, head_dim=width)
    without = 6 * (128 * 4 * heads * width + 3 * 128 * 384 + 128 * 512)
    assert flops_per_token(config, 2 * length - 1) - without == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 20])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_pairs_are_those_that_the_mask_shows(length, window):
    behind = np.arange(length)[:, None] - np.arange(length)
    shown = (behind >= 0) & (behind < (window or length))
    config = replace(SHAPE, window=window)
    every_pair_once = 12 * config.num_heads * config.head_dim * shown.sum() / length
    none = flops_per_token(replace(config, window=1), length) - 12 * config.num_heads * config.head_dim
    assert flops_per_token(config, length) == pytest.approx(none + every_pair_once, rel=1e-12)


def test_video_tokens_see_less_than_words():
    def cost(words: float = 0.0, **changes) -> float:
        return flops_per_token(replace(SHAPE, code_offset=9, **changes), 100, words=words)

    assert cost(video_window=7) == cost(window=7)
    assert cost(video_window=7, words=1.0) == cost()
    assert cost(video_window=7, words=0.25) == pytest.approx(0.75 * cost(window=7) + 0.25 * cost(), rel=1e-12)
    assert cost(video_window=7, window=20, words=1.0) == cost(window=20)
    assert cost(video_window=20, window=7) == cost(window=7)
    assert cost(video_window=100) == cost()


def test_layers_add_up():
    costs = [flops_per_token(replace(SHAPE, num_layers=layers), 100) for layers in (1, 2, 3)]
    assert costs[2] - costs[1] == costs[1] - costs[0] > 0


@pytest.mark.parametrize(
    ("kind", "cores", "peak"),
    [
        ("TPU v4", 2, 275e12),
        ("TPU v4", 1, 137.5e12),
        ("TPU v5 lite", 1, 197e12),
        ("TPU v5", 2, 459e12),
        ("TPU v6 lite", 1, 918e12),
        ("TPU7x", 1, 1153.5e12),
        ("NVIDIA A100-SXM4-80GB", 0, 312e12),
        ("NVIDIA A10", 0, 125e12),
        ("NVIDIA A10G", 0, None),
        ("NVIDIA H100 80GB HBM3", 0, 989e12),
        ("NVIDIA H100 PCIe", 0, 756e12),
        ("NVIDIA H100 NVL", 0, 835e12),
        ("NVIDIA H200", 0, 989e12),
        ("NVIDIA GH200 480GB", 0, 989e12),
        ("NVIDIA GB200", 0, 2500e12),
        ("NVIDIA GeForce RTX 4090", 0, 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0, None),
        ("cpu", 0, None),
    ],
)
def test_peaks(kind, cores, peak):
    device = SimpleNamespace(device_kind=kind, **({"num_cores": cores} if cores else {}))
    assert peak_flops(device, jnp.bfloat16) == peak
    single = peak and (peak if cores else peak / 2)
    assert peak_flops(device, "float32") == single
    assert peak_flops(device, jnp.int8) is None


def test_a_cpu_has_none():
    assert peak_flops(jax.devices()[0], jnp.float32) is None
