"""The transformer against a plain float64 Llama, against Hugging Face's outputs, and against itself computed
another way.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.errors import UserError
from ringvision.mesh import RULES, TRAINING, make_mesh
from ringvision.models.parameters import param_shardings
from ringvision.models.transformer import PRESETS, Transformer, TransformerConfig
from ringvision.ops.losses import chunked_cross_entropy
from ringvision.ops.mask import ANY
from ringvision.tree import flatten

from . import llama_reference
from .hugging_face import load

FIXTURES = Path(__file__).parent.parent / "fixtures" / "hf_llama"
VARIANTS = FIXTURES.with_name("hf_variants")
SMALL = TransformerConfig(
    vocab_size=97, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, hidden_dim=48
)


def make(config: TransformerConfig = SMALL, std: float = 0.2) -> Transformer:
    """A model with weights large enough that its logits are about 1 and its attention is not flat."""
    model = Transformer(config, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return nnx.merge(
        graphdef,
        jax.tree.map(
            lambda x: std * jax.random.normal(next(keys), x.shape) + (x.ndim < 3) * (x == 1), params
        ),
    )


@partial(jax.jit, static_argnames=("graphdef", "mesh"))
def _logits(graphdef, params, rows, mesh):
    return nnx.merge(graphdef, params).logits(*rows, mesh=mesh)


def logits(model, *rows, mesh=None):
    return _logits(*nnx.split(model), rows, mesh)


def packed_rows(length: int = 32):
    """Two rows: one of three segments and padding, one of a single segment. Tokens, positions, segment
    ids.
    """
    tokens = np.random.default_rng(0).integers(0, 97, (2, length)).astype(np.int32)
    cuts = (0, length // 4, length // 2 + 3, length - 5, length)
    positions = np.zeros_like(tokens)
    segment_ids = np.zeros_like(tokens)
    for number, (start, end) in enumerate(pairwise(cuts)):
        positions[0, start:end] = np.arange(end - start)
        segment_ids[0, start:end] = (number + 1) % 4
    positions[1] = np.arange(length)
    segment_ids[1] = 1
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segment_ids)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_against_float64(tied):
    model = make(replace(SMALL, tie_embeddings=tied))
    rows = packed_rows()
    expected = llama_reference.logits(flatten(nnx.state(model)), model.config, *rows)
    np.testing.assert_allclose(logits(model, *rows), expected, atol=2e-5)
    assert expected.std() > 0.3


@pytest.mark.parametrize("variant", ["untied", "tied", "llama3"])
def test_logits_against_hugging_face(variant):
    model, data = load(FIXTURES / variant)
    np.testing.assert_allclose(logits(model, data["input_ids"]), data["logits"], atol=1e-4)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("variant", ["qwen2", "qwen2_yarn", "qwen3", "mistral"])
def test_relatives_of_llama_against_hugging_face(variant, devices):
    model, data = load(VARIANTS / variant)
    found = logits(model, data["input_ids"], mesh=make_mesh(context=devices, devices=jax.devices()[:devices]))
    np.testing.assert_allclose(found, data["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "change"),
    [
        ("qwen2_yarn", {"rope_scaling": None}),
        ("mistral", {"window": None}),
        ("mistral", {"window": 6}),
        ("qwen3", {"norm_eps": 0.1}),
    ],
)
def test_what_makes_a_relative_is_seen_in_its_logits(variant, change):
    model, data = load(VARIANTS / variant)
    _, params = nnx.split(model)
    graphdef, _ = nnx.split(Transformer(replace(model.config, **change), rngs=nnx.Rngs(0)))
    assert np.abs(_logits(graphdef, params, (data["input_ids"],), None) - data["logits"]).max() > 0.1


def test_left_padding_against_hugging_face():
    model, data = load(FIXTURES / "untied")
    mask = data["leftpad_attention_mask"]
    found = logits(model, data["leftpad_input_ids"], data["leftpad_position_ids"], mask)
    np.testing.assert_allclose(found[mask == 1], data["leftpad_logits"][mask == 1], atol=1e-4)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_ring_gives_the_same_logits(devices):
    model = make()
    rows = packed_rows()
    mesh = make_mesh(context=devices, devices=jax.devices()[:devices])
    order = np.random.default_rng(1).permutation(32)
    shuffled = logits(model, *(x[:, order] for x in rows), mesh=mesh)
    np.testing.assert_allclose(shuffled, logits(model, *rows)[:, order], atol=1e-5)


def test_every_mesh_axis_at_once_gives_the_same_logits():
    model = make()
    rows = packed_rows()
    mesh = make_mesh(data=2, tensor=2, context=2)
    np.testing.assert_allclose(logits(model, *rows, mesh=mesh), logits(model, *rows), atol=1e-5)


def test_segments_do_not_see_one_another():
    model = make()
    tokens, positions, segment_ids = packed_rows()
    changed = tokens.at[0, 0].set((tokens[0, 0] + 1) % 97)
    before = logits(model, tokens, positions, segment_ids)
    after = logits(model, changed, positions, segment_ids)
    same = np.asarray(segment_ids[0]) != 1
    np.testing.assert_array_equal(before[0, same], after[0, same])
    assert np.abs(before[0, ~same] - after[0, ~same]).max() > 1e-3
    alone = logits(model, tokens[:1, 8:19])
    np.testing.assert_allclose(before[0, 8:19], alone[0], atol=2e-5)


@pytest.mark.parametrize(
    ("devices", "change"),
    [
        (1, {"remat": "block"}),
        (1, {"feed_forward_chunk": 8}),
        (2, {"remat": "block", "feed_forward_chunk": 5}),
        (2, {"feed_forward_chunk": 64}),
    ],
)
def test_memory_savers_change_neither_values_nor_gradients(devices, change):
    mesh = make_mesh(context=devices, devices=jax.devices()[:devices])
    rows = packed_rows()
    graphdef, params = nnx.split(make())
    saving, _ = nnx.split(make(replace(SMALL, **change)))

    def loss(params, graphdef):
        return jnp.mean(jnp.square(nnx.merge(graphdef, params).logits(*rows, mesh=mesh)))

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, gradient = run(params, graphdef)
    saving_value, saving_gradient = run(params, saving)
    np.testing.assert_allclose(value, saving_value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(a)))),
        gradient,
        saving_gradient,
    )


@pytest.mark.parametrize(
    ("axes", "rules", "change"),
    [
        ({"fsdp": 2, "context": 4}, TRAINING, {"remat": "block", "feed_forward_chunk": 3}),
        ({"data": 2, "context": 2, "ulysses": 2}, TRAINING, {"tie_embeddings": True}),
        ({"fsdp": 2, "tensor": 2, "context": 2}, TRAINING, {"feed_forward_chunk": 4}),
        ({"fsdp": 2, "tensor": 2, "context": 2}, RULES, {"remat": "block"}),
    ],
)
def test_loss_and_gradients_are_those_of_one_device(axes, rules, change):
    """Parameters spread over fsdp, tensor and the ring itself, gathered layer by layer."""
    config = replace(SMALL, vocab_size=96, embed_dim=32, **change)
    graphdef, params = nnx.split(make(config))
    rows = [jnp.tile(array, (4, 1)) for array in packed_rows()]
    rows[0] = rows[0] % 96
    targets = jnp.roll(rows[0], -1, axis=1)

    def loss(params, mesh, rules):
        model = nnx.merge(graphdef, params)
        hidden = model.hidden(*rows, mesh=mesh, rules=rules)
        weights = (rows[2] > 0).astype(jnp.float32)
        sums = chunked_cross_entropy(hidden, model.head(), targets, weights, chunk=5, mesh=mesh, rules=rules)
        return sums.loss / sums.weight

    run = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    value, gradient = run(params, make_mesh(context=1, devices=jax.devices()[:1]), RULES)
    mesh = make_mesh(**axes)
    places = param_shardings(params, mesh, rules)
    spread_value, spread_gradient = run(jax.device_put(params, places), mesh, rules)
    np.testing.assert_allclose(spread_value, value, rtol=1e-5)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient))
    found = flatten(spread_gradient)
    for name, leaf in flatten(gradient).items():
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_padding_has_no_part_in_the_gradient():
    graphdef, params = nnx.split(make())
    tokens, positions, segment_ids = packed_rows()
    tokens = jnp.where(tokens == 96, 0, tokens).at[0, -5:].set(96)

    @jax.jit
    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params).logits(tokens, positions, segment_ids)[0, :-5] ** 2)

    gradient = jax.grad(loss)(params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
    assert not np.asarray(gradient["embed"]["table"][...])[96].any()


def test_names_and_shapes_of_the_weights():
    shapes = {
        name: x.shape
        for name, x in flatten(
            nnx.state(nnx.eval_shape(lambda: Transformer(SMALL, rngs=nnx.Rngs(0))))
        ).items()
    }
    assert shapes == {
        "embed.table": (97, 32),
        "layers.attention_norm.scale": (2, 32),
        "layers.attention.query": (2, 32, 4, 8),
        "layers.attention.key": (2, 32, 2, 8),
        "layers.attention.value": (2, 32, 2, 8),
        "layers.attention.output": (2, 4, 8, 32),
        "layers.feed_forward_norm.scale": (2, 32),
        "layers.feed_forward.gate": (2, 32, 48),
        "layers.feed_forward.up": (2, 32, 48),
        "layers.feed_forward.down": (2, 48, 32),
        "norm.scale": (32,),
        "unembed.kernel": (32, 97),
    }


def test_names_and_shapes_of_what_some_models_have():
    def extra(**change):
        config = replace(SMALL, **change)
        named = flatten(nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))))
        plain = flatten(nnx.state(nnx.eval_shape(lambda: Transformer(SMALL, rngs=nnx.Rngs(0)))))
        return {
            name.removeprefix("layers.attention."): x.shape for name, x in named.items() if name not in plain
        }

    assert extra(qkv_bias=True) == {"query_bias": (2, 4, 8), "key_bias": (2, 2, 8), "value_bias": (2, 2, 8)}
    assert extra(qk_norm="rms") == {"query_norm": (2, 8), "key_norm": (2, 8)}
    per_head = {"query_norm": (2, 4, 8), "key_norm": (2, 2, 8)}
    assert extra(qk_norm="layer") == per_head | {f"{name}_bias": shape for name, shape in per_head.items()}
    assert extra(window=3) == extra(video_window=3, code_offset=40) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"qkv_bias": True, "window": 5},
        {"qk_norm": "rms"},
        {"qkv_bias": True, "qk_norm": "layer"},
        {"video_window": 4, "code_offset": 40},
        {"video_window": 4, "code_offset": 40, "window": 7},
        {"sharpened_from": 2},
        {"sharpened_from": 2, "video_window": 4, "code_offset": 40},
    ],
)
def test_biases_norms_and_windows_against_float64(change):
    """Packed documents, padding, an order shuffled over four devices."""
    model = make(replace(SMALL, **change))
    rows = packed_rows()
    expected = llama_reference.logits(flatten(nnx.state(model)), model.config, *rows)
    np.testing.assert_allclose(logits(model, *rows), expected, atol=5e-5)
    order = np.random.default_rng(1).permutation(32)
    mesh = make_mesh(context=2, tensor=2, devices=jax.devices()[:4])
    np.testing.assert_allclose(
        logits(model, *(x[:, order] for x in rows), mesh=mesh), expected[:, order], atol=5e-5
    )
    assert np.abs(expected - llama_reference.logits(flatten(nnx.state(model)), SMALL, *rows)).max() > 0.1


def test_who_sees_how_far():
    """Of one layer: a changed token is noticed by video tokens (from 40 on) less than 4 behind it, and by all
    words behind it.
    """
    model = make(replace(SMALL, num_layers=1, video_window=4, code_offset=40))
    tokens = np.tile(np.array([50, 60, 3, 70, 80, 90, 5, 50, 60, 7], np.int32), (1, 1))
    changed = tokens.copy()
    changed[0, 1] = 61
    differs = np.abs(logits(model, tokens) - logits(model, changed)).max(-1)[0] > 0
    assert differs.tolist() == [False, True, True, True, True, False, True, False, False, True]


@pytest.mark.parametrize("devices", [1, 4])
def test_a_video_window_over_everything_changes_nothing(devices):
    rows = packed_rows()
    mesh = make_mesh(context=devices, devices=jax.devices()[:devices])
    wide = make(replace(SMALL, video_window=32, code_offset=40))
    # to rounding: it is another program
    np.testing.assert_allclose(logits(wide, *rows, mesh=mesh), logits(make(), *rows, mesh=mesh), atol=1e-5)


def test_a_video_window_in_the_gradient():
    """That of the ring on four devices, where words are taken first, is that of one device."""
    graphdef, params = nnx.split(make(replace(SMALL, video_window=4, code_offset=40)))
    rows = packed_rows()

    def loss(params, mesh):
        return jnp.mean(jnp.square(nnx.merge(graphdef, params).logits(*rows, mesh=mesh)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    alone, spread = (
        gradient(params, make_mesh(context=devices, devices=jax.devices()[:devices])) for devices in (1, 4)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(a)))), alone, spread
    )


def test_a_large_model_costs_nothing_to_describe():
    model = nnx.eval_shape(lambda: Transformer(PRESETS["lwm-7b"], rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    leaves = jax.tree.leaves(nnx.state(model))
    assert 6.7e9 < sum(leaf.size for leaf in leaves) < 6.9e9 and {leaf.dtype for leaf in leaves} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_initial_weights():
    params = flatten(nnx.state(Transformer(PRESETS["small"], rngs=nnx.Rngs(0))))
    for name, std in (
        ("embed.table", 0.02),
        ("layers.attention.query", 0.02),
        ("layers.attention.output", 0.02 / 12**0.5),
    ):
        assert abs(float(params[name].std()) / std - 1) < 0.05, name
    assert not np.array_equal(params["layers.feed_forward.gate"], params["layers.feed_forward.up"])


def test_lower_precision_stays_close():
    rows = packed_rows()
    graphdef, params = nnx.split(make())
    half = _logits(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), rows, None)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, _logits(graphdef, params, rows, None), atol=0.15)


def test_config_there_and_back():
    for config in PRESETS.values():
        assert TransformerConfig.from_dict(config.to_dict()) == config
    video = replace(SMALL, video_window=4, code_offset=40, sharpened_from=512)
    assert TransformerConfig.from_dict(video.to_dict()) == video
    before = SMALL.to_dict()
    del before["video_window"]
    assert TransformerConfig.from_dict(before) == SMALL
    with pytest.raises(UserError, match="'depth' is unknown; num_layers is missing"):
        values = SMALL.to_dict() | {"depth": 2}
        del values["num_layers"]
        TransformerConfig.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 0},
        {"num_kv_heads": 3},
        {"head_dim": 7},
        {"feed_forward_chunk": 0},
        {"remat": "all"},
        {"rope_theta": 0.0},
        {"window": 0},
        {"video_window": 0, "code_offset": 40},
        {"video_window": 4},
        {"qk_norm": "batch"},
    ],
)
def test_impossible_configs_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        replace(SMALL, **change)


def test_a_code_is_told_its_place_in_the_frame() -> None:
    """The same code at another place of the frame is another input; text is not; and the order along L does
    not matter.
    """
    config = replace(PRESETS["tiny"], vocab_size=40, frame_period=5, code_offset=30)
    model = Transformer(config, rngs=nnx.Rngs(0))
    plain = model.embed(jnp.array([[31, 31, 3, 3]]))
    told = model._embed(jnp.array([[31, 31, 3, 3]]), jnp.array([[1, 2, 1, 2]]))
    rows = model.cells.table[...]
    np.testing.assert_allclose(
        told - plain, jnp.stack([rows[1], rows[2], rows[0] * 0, rows[0] * 0])[None], atol=1e-7
    )
    wrapped = model._embed(jnp.array([[31]]), jnp.array([[6]]))
    np.testing.assert_array_equal(wrapped, told[:, :1])


def test_a_time_stamp_is_the_sum_of_its_minute_and_its_second():
    """That of a frame has a place in it and sees the video; that of a question is a word."""
    config = replace(
        PRESETS["tiny"], vocab_size=100, frame_period=5, code_offset=30, stamp_rows=63, video_window=8
    )
    model = Transformer(config, rngs=nnx.Rngs(0))
    table, places = model.embed.table[...], model.cells.table[...]
    tokens = jnp.array([[3, 31, 100 + 7, 100 + 60 + 59, 220 + 60 + 59]])
    positions = jnp.array([[4, 5, 6, 7, 8]])
    found = model._embed(tokens, positions)
    expected = [
        table[3],
        table[31] + places[0],
        table[37 + 7] + table[37 + 60] + places[1],
        table[37 + 59] + table[37 + 61] + places[2],
        table[37 + 59] + table[37 + 61] + table[99],
    ]
    np.testing.assert_allclose(found[0], jnp.stack(expected), rtol=1e-6)
    assert model._earliest(tokens, positions)[0].tolist() == [ANY, -2, -1, 0, ANY]
    hidden = model.hidden(tokens, positions, jnp.ones_like(tokens))
    assert np.isfinite(np.asarray(hidden)).all()


@pytest.mark.parametrize("rows", [61, 70, -3])
def test_rows_of_stamps_that_cannot_be(rows):
    with pytest.raises(UserError, match=f"stamp_rows={rows} of 70"):
        replace(PRESETS["tiny"], vocab_size=100, code_offset=30, stamp_rows=rows)


def test_ids_are_rows_and_a_stamp_for_every_second() -> None:
    config = replace(PRESETS["tiny"], vocab_size=100, code_offset=30)
    assert config.num_ids == 100
    assert replace(config, stamp_rows=63).num_ids == 100 + 2 * 120
