"""Reading with a cache equals reading at once, in any blocks, on any number of devices; and what a cache
promises about its slots.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.models.cache import ROW_AXIS, SLOT_AXIS, Cache, shardings, store
from ringvision.models.transformer import Transformer, TransformerConfig

from .hugging_face import load

FIXTURES = Path(__file__).parent.parent / "fixtures" / "hf_llama"
CONFIG = TransformerConfig(
    vocab_size=61, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, hidden_dim=40
)


class Reader:
    """A model on a mesh with `extend` compiled once for fresh blocks, once for later ones and once for single
    tokens.
    """

    def __init__(self, model: Transformer, mesh):
        self.graphdef, self.params = nnx.split(model)
        self.config = model.config
        self.mesh = mesh
        self.extend = jax.jit(
            self._extend,
            static_argnames=("fresh", "reach"),
            donate_argnames="cache",
            out_shardings=(None, shardings(mesh)),
        )

    def _extend(self, params, tokens, positions, segment_ids, cache, fresh, reach):
        model = nnx.merge(self.graphdef, params)
        hidden, cache = model.extend(
            tokens, positions, segment_ids, cache, mesh=self.mesh, fresh=fresh, reach=reach
        )
        return jnp.einsum("BTD,DV->BTV", hidden, model.head()), cache

    def read(self, tokens, cache, *, start=0, fresh=False, segment_ids=None, order=None, reach=None):
        """Logits [B, T, V] in the tokens' own order, and the cache. `order` is how they are laid out on the
        devices.
        """
        order = np.arange(tokens.shape[1]) if order is None else order
        segment_ids = np.ones_like(tokens) if segment_ids is None else segment_ids
        positions = np.broadcast_to(start + np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        rows = (x[:, order] for x in (tokens, positions, segment_ids))
        logits, cache = self.extend(self.params, *rows, cache, fresh=fresh, reach=reach)
        return np.asarray(logits)[:, np.argsort(order)], cache


def make(config: TransformerConfig = CONFIG) -> Transformer:
    graphdef, params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return nnx.merge(
        graphdef,
        jax.tree.map(
            lambda x: 0.2 * jax.random.normal(next(keys), x.shape) + (x.ndim < 3) * (x == 1), params
        ),
    )


def ring(devices: int):
    return make_mesh(context=devices, devices=jax.devices()[:devices])


TOKENS = np.random.default_rng(0).integers(0, 61, (2, 44)).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def whole(model):
    """Logits of all 44 tokens read at once on one device."""
    return np.asarray(jax.jit(model.logits)(TOKENS))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_blocks_then_single_tokens_equal_one_pass(model, whole, devices):
    """Two blocks of 16 (laid out in any order), then twelve tokens one at a time: more than once round the
    ring.
    """
    reader = Reader(model, ring(devices))
    cache = Cache.empty(CONFIG, 2, 48, reader.mesh)
    order = np.random.default_rng(1).permutation(16)
    first, cache = reader.read(TOKENS[:, :16], cache, fresh=True, order=order)
    second, cache = reader.read(TOKENS[:, 16:32], cache, start=16, order=order)
    parts = [first, second]
    for t in range(32, 44):
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)
    np.testing.assert_array_equal(
        np.sort(np.asarray(cache.positions)[:, np.asarray(cache.segment_ids[0]) > 0]), [np.arange(44)] * 2
    )
    assert int(np.ptp(cache.fill)) <= 1 and int(cache.fill.sum()) == 2 * 44
    assert reader.extend._cache_size() == 3


@pytest.mark.parametrize("devices", [1, 8])
def test_another_question_about_the_same_video(model, whole, devices):
    """A block with padding behind it and inside it; answer; forget; ask again, in another block; answer."""
    reader = Reader(model, ring(devices))
    cache = Cache.empty(CONFIG, 2, 48, reader.mesh)
    _, cache = reader.read(TOKENS[:, :16], cache, fresh=True)
    kept = cache.free
    other = (TOKENS + 7) % 61
    for question in (other, TOKENS):
        block = np.zeros((2, 16), np.int32)
        real = np.zeros_like(block)
        block[:, :11] = question[:, 16:27]
        real[:, :11] = 1
        logits, cache = reader.read(block, cache, start=16, segment_ids=real)
        cache = cache.truncate(27)
        answer, cache = reader.read(question[:, 27:28], cache, start=27)
        again, cache = reader.read(question[:, 28:29], cache, start=28)
        if question is TOKENS:
            np.testing.assert_allclose(
                np.concatenate([logits[:, :11], answer, again], axis=1), whole[:, 16:29], atol=2e-5
            )
        cache = cache.truncate(16)
        assert cache.free == kept and int((cache.segment_ids > 0).sum()) == 32


WINDOWED = replace(CONFIG, video_window=5, code_offset=20)
"""Tokens from 20 on see 5 positions, the others all."""


@pytest.fixture(scope="module")
def windowed():
    """The model of WINDOWED and its logits of all 44 tokens at once, on one device: other ones than without
    the window.
    """
    model = make(WINDOWED)
    logits = np.asarray(jax.jit(model.logits)(TOKENS))
    assert np.abs(logits - np.asarray(jax.jit(make().logits)(TOKENS))).max() > 0.1
    return model, logits


def close(actual, expected) -> None:
    """To 1e-5 of the largest logit: float32 sums of the same terms in another order, through two layers."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_window_for_video_tokens_in_blocks_and_token_by_token(windowed, devices):
    """Blocks of 16 in any order then twelve tokens; and every token of the row by itself."""
    model, whole = windowed
    reader = Reader(model, ring(devices))
    order = np.random.default_rng(1).permutation(16)
    cache = Cache.empty(WINDOWED, 2, 48, reader.mesh)
    parts = []
    for start in (0, 16):
        logits, cache = reader.read(TOKENS[:, start : start + 16], cache, start=start, order=order)
        parts.append(logits)
    for t in range(32, 44):
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t)
        parts.append(logits)
    close(np.concatenate(parts, axis=1), whole)
    cache = Cache.empty(WINDOWED, 2, 48, reader.mesh)
    parts = []
    for t in range(44):
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t)
        parts.append(logits)
    close(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_window_reaches_into_a_prefix_that_rows_share(windowed, devices):
    """16 tokens read once for two rows, which then read a block and a token of their own."""
    model, _ = windowed
    mesh = ring(devices)
    tokens = TOKENS[:, :25].copy()
    tokens[1, :16] = tokens[0, :16]
    whole = np.asarray(jax.jit(model.logits)(tokens))
    reader = Reader(model, mesh)
    _, prefix = reader.read(tokens[:1, :16], Cache.empty(WINDOWED, 1, 16, mesh), fresh=True)
    cache = Cache.empty(WINDOWED, 2, 16, mesh)

    @jax.jit
    def extend(params, tokens, start, cache):
        positions = jnp.broadcast_to(start + jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        own = nnx.merge(reader.graphdef, params)
        hidden, cache = own.extend(tokens, positions, jnp.ones_like(tokens), cache, mesh=mesh, prefix=prefix)
        return jnp.einsum("BTD,DV->BTV", hidden, own.head()), cache

    block, cache = extend(reader.params, tokens[:, 16:24], jnp.int32(16), cache)
    token, cache = extend(reader.params, tokens[:, 24:], jnp.int32(24), cache)
    close(np.concatenate([block, token], axis=1), whole[:, 16:])


VIDEO = np.random.default_rng(3).integers(20, 61, (2, 48)).astype(np.int32)


@pytest.mark.parametrize("window", ["window", "video_window"])
@pytest.mark.parametrize("devices", [1, 4])
def test_blocks_of_video_look_at_the_end_of_the_cache_alone(devices, window):
    """A block and a token that see 5 positions give what they give at once, also where keys and values of
    every device are no numbers but for its last five: whoever looked at them would give none either.
    """
    config = replace(CONFIG, **{"code_offset": 20, window: 5})
    model = make(config)
    whole = np.asarray(jax.jit(model.logits)(VIDEO))
    reader = Reader(model, ring(devices))
    logits, cache = reader.read(VIDEO[:, :32], Cache.empty(config, 2, 64, reader.mesh))
    old = (np.arange(64) % (64 // devices) < 32 // devices - 5)[:, None]  # (S, 1)
    cache = replace(cache, k=jnp.where(old, jnp.nan, cache.k), v=jnp.where(old, jnp.nan, cache.v))
    cache = jax.device_put(cache, shardings(reader.mesh))
    cut, cache = reader.read(VIDEO[:, 32:40], cache, start=32, reach=config.reach(VIDEO[:, 32:40]))
    token, cache = reader.read(VIDEO[:, 40:41], cache, start=40, reach=5)
    close(np.concatenate([logits, cut, token], axis=1), whole[:, :41])
    assert cache.length == 64 and int(cache.fill.sum()) == 2 * 41


@pytest.mark.parametrize("devices", [1, 2])
def test_the_end_of_what_is_seen_of_a_prefix(windowed, devices):
    """Of 24 tokens that rows share they go on from 16."""
    model, _ = windowed
    mesh = ring(devices)
    reader = Reader(model, mesh)
    _, prefix = reader.read(VIDEO[:1, :16], Cache.empty(WINDOWED, 1, 32, mesh))
    _, prefix = reader.read(TOKENS[:1, 16:24], prefix, start=16)
    tokens = np.concatenate([VIDEO[[0, 0], :16], VIDEO[:, 16:24]], axis=1)
    whole = np.asarray(jax.jit(model.logits)(tokens))

    @jax.jit
    def extend(params, tokens):
        positions = jnp.broadcast_to(16 + jnp.arange(8, dtype=jnp.int32), (2, 8))
        own = nnx.merge(reader.graphdef, params)
        hidden, _ = own.extend(
            tokens,
            positions,
            jnp.ones_like(tokens),
            Cache.empty(WINDOWED, 2, 16, mesh),
            mesh=mesh,
            reach=5,
            prefix=prefix,
            shared=16,
        )
        return jnp.einsum("BTD,DV->BTV", hidden, own.head())

    close(extend(reader.params, tokens[:, 16:]), whole[:, 16:])


def test_every_mesh_axis_at_once(model, whole):
    reader = Reader(model, make_mesh(data=2, tensor=2, context=2))
    cache = Cache.empty(CONFIG, 2, 40, reader.mesh)
    first, cache = reader.read(TOKENS[:, :32], cache, fresh=True)
    second, cache = reader.read(TOKENS[:, 32:33], cache, start=32)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole[:, :33], atol=2e-5)


@pytest.mark.parametrize(("variant", "devices"), [("untied", 8), ("tied", 1), ("llama3", 2)])
def test_greedy_answers_equal_hugging_face(variant, devices):
    model, data = load(FIXTURES / variant)
    reader = Reader(model, ring(devices))
    prompt = data["greedy_prompt_ids"].astype(np.int32)
    expected = data["greedy_sequences"]
    block = np.zeros((2, 16), np.int32)
    real = np.zeros((2, 16), np.int32)
    block[:, :12] = prompt
    real[:, :12] = 1
    logits, cache = reader.read(
        block, Cache.empty(model.config, 2, 32, reader.mesh), segment_ids=real, fresh=True
    )
    tokens = [logits[:, 11].argmax(-1)]
    while len(tokens) < 16:
        logits, cache = reader.read(tokens[-1][:, None].astype(np.int32), cache, start=11 + len(tokens))
        tokens.append(logits[:, 0].argmax(-1))
    np.testing.assert_array_equal(np.concatenate([prompt, np.stack(tokens, axis=1)], axis=1), expected)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("variant", ["qwen2", "qwen2_yarn", "qwen3", "mistral"])
def test_relatives_of_llama_decode_as_hugging_face_does(variant, devices):
    """A block, another that sees into the cache, then single tokens; in the end what was read token by token
    equals one pass.
    """
    model, data = load(FIXTURES.with_name("hf_variants") / variant)
    reader = Reader(model, ring(devices))
    expected = data["greedy_sequences"].astype(np.int32)
    cache = Cache.empty(model.config, 2, 28, reader.mesh)
    first, cache = reader.read(expected[:, :8], cache, fresh=True)
    second, cache = reader.read(expected[:, 8:12], cache, start=8)
    parts = [first, second]
    while (length := sum(part.shape[1] for part in parts)) < 28:
        token = parts[-1][:, -1:].argmax(-1).astype(np.int32)
        np.testing.assert_array_equal(token[:, 0], expected[:, length])
        logits, cache = reader.read(token, cache, start=length)
        parts.append(logits)
    whole = jax.jit(lambda params: nnx.merge(reader.graphdef, params).logits(expected))(reader.params)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)


def test_a_row_that_has_ended_stays_out_of_the_way(model, whole):
    """Row 0 passes segment 0 from token 18 on; row 1 goes on as if alone."""
    reader = Reader(model, ring(2))
    logits, cache = reader.read(TOKENS[:, :16], Cache.empty(CONFIG, 2, 32, reader.mesh), fresh=True)
    for t in range(16, 22):
        alive = np.array([[int(t < 18)], [1]], np.int32)
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t, segment_ids=alive)
        np.testing.assert_allclose(logits[1], whole[1, t : t + 1], atol=2e-5)
        assert np.isfinite(logits).all()
    np.testing.assert_array_equal((np.asarray(cache.segment_ids) > 0).sum(axis=1), [18, 22])


def test_segments_stay_apart_across_blocks(model):
    """Two documents one after the other: the second, read in a later block and token by token, does not see
    the first.
    """
    reader = Reader(model, ring(2))
    ids = np.ones((1, 8), np.int32)
    _, cache = reader.read(TOKENS[:1, :8], Cache.empty(CONFIG, 1, 32, reader.mesh), fresh=True)
    first, cache = reader.read(TOKENS[:1, 8:16], cache, segment_ids=2 * ids)
    second, cache = reader.read(TOKENS[:1, 16:17], cache, start=8, segment_ids=2 * ids[:, :1])
    np.testing.assert_allclose(
        np.concatenate([first, second], axis=1), model.logits(jnp.asarray(TOKENS[:1, 8:17])), atol=2e-5
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_a_full_cache_says_so_and_loses_nothing(model, devices):
    reader = Reader(model, ring(devices))
    _, cache = reader.read(TOKENS[:, :16], Cache.empty(CONFIG, 2, 17, reader.mesh), fresh=True)
    assert cache.length == 17 + devices - 1
    keys = np.asarray(cache.k)
    assert cache.free == cache.length - 16
    logits, cache = reader.read(TOKENS[:, 16:32], cache, start=16)
    assert np.isnan(logits).all() and bool(cache.overflowed)
    np.testing.assert_array_equal(cache.k, keys)
    cache = cache.truncate(16)
    assert not bool(cache.overflowed)
    for t in range(16, 16 + cache.free):
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t)
        assert np.isfinite(logits).all()
    assert cache.free == 0
    logits, cache = reader.read(TOKENS[:, 30:31], cache, start=30)
    assert np.isnan(logits).all()


def test_a_cache_of_half_precision_is_close(model, whole):
    reader = Reader(model, ring(2))
    first, cache = reader.read(
        TOKENS[:, :16], Cache.empty(CONFIG, 2, 32, reader.mesh, jnp.bfloat16), fresh=True
    )
    second, cache = reader.read(TOKENS[:, 16:32], cache, start=16)
    assert cache.dtype == jnp.bfloat16 and cache.k.dtype.itemsize == 2
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole[:, :32], atol=0.1)


@pytest.mark.parametrize(
    "axes", [{"context": 1}, {"context": 8}, {"data": 2, "tensor": 2, "context": 2}], ids=str
)
def test_a_cache_of_bytes_is_close_and_the_same_on_every_mesh(model, whole, axes):
    """A block, a block that sees it, single tokens: the logits are within 0.1 of those of float32, which
    differ by 5 from token to token, and the likeliest token is the same.
    """
    reader = Reader(model, make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))]))
    cache = Cache.empty(CONFIG, 2, 48, reader.mesh, jnp.int8)
    parts = []
    for start, end in ((0, 16), (16, 32), *((t, t + 1) for t in range(32, 40))):
        logits, cache = reader.read(TOKENS[:, start:end], cache, start=start)
        parts.append(logits)
    found = np.concatenate(parts, axis=1)
    assert cache.dtype == cache.k.dtype == cache.v.dtype == jnp.int8
    assert cache.k_scale.dtype == jnp.float32
    assert np.abs(found - whole[:, :40]).max() < 0.1 < np.std(whole)
    assert (found.argmax(-1) == whole[:, :40].argmax(-1)).mean() > 0.97


def test_what_bytes_hold_of_a_float():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    x[0, 0] = 0
    kept = store(jnp.asarray(x), jnp.int8)
    assert kept.values.dtype == jnp.int8 and kept.scale.shape == (3, 5)
    largest = np.abs(x).max(-1, keepdims=True)
    assert (np.abs(np.asarray(kept.read(jnp.float32)) - x) <= largest / 254 + 1e-6).all()
    np.testing.assert_array_equal(kept.read(jnp.float32)[0, 0], 0)
    assert kept.read(jnp.bfloat16).dtype == jnp.bfloat16


def test_a_block_of_bytes_attends_to_itself_with_what_is_read_later(model):
    """Token by token everything comes from the cache, at once nothing does: the same logits."""
    reader = Reader(model, ring(1))
    at_once, _ = reader.read(TOKENS[:, :6], Cache.empty(CONFIG, 2, 8, reader.mesh, jnp.int8))
    cache = Cache.empty(CONFIG, 2, 8, reader.mesh, jnp.int8)
    for t in range(6):
        logits, cache = reader.read(TOKENS[:, t : t + 1], cache, start=t)
        np.testing.assert_allclose(logits[:, 0], at_once[:, t], atol=2e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_growing_selecting_and_overflowing_keep_every_part(model, dtype):
    mesh = ring(2)
    reader = Reader(model, mesh)
    _, cache = reader.read(TOKENS[:, :16], Cache.empty(CONFIG, 2, 16, mesh, jnp.dtype(dtype)))
    full = {name: np.asarray(x) for name, x in cache.parts.items()}
    logits, cache = reader.read(TOKENS[:, 16:17], cache, start=16)
    assert np.isnan(logits).all() and bool(cache.overflowed)
    cache = cache.truncate(16)
    grown = cache.grow(24, mesh=mesh)
    assert (cache.length, grown.length) == (16, 24)
    assert grown.parts.keys() == full.keys()
    swapped = grown.select(jnp.array([1, -1, 0]))
    one = swapped.select(jnp.array([2]))
    put = grown.insert(1, one, mesh=mesh)
    logits, put = reader.read(TOKENS[[0, 0], 16:17], put, start=16)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits[0], logits[1])
    for name, x in full.items():
        new = np.asarray(getattr(put, name))
        row = {0: new[0], 1: new[:, 0]}[ROW_AXIS[name]]
        old = {0: x[0], 1: x[:, 0]}[ROW_AXIS[name]]
        axis = SLOT_AXIS[name] - 1
        for device in range(2):  # 12 slots each, of which 8 were there before
            before = np.take(old, range(8 * device, 8 * device + 8), axis)
            np.testing.assert_array_equal(np.take(row, range(12 * device, 12 * device + 8), axis), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "axes", [{"context": 1}, {"context": 4}, {"data": 2, "tensor": 2, "context": 2}], ids=str
)
def test_what_was_appended_last(dtype, axes):
    """Rows of 4 and 13 tokens, in blocks, singly, behind more that was forgotten, in a cache that grew: of
    every device the 3 slots before its fill, by slicing.
    """
    mesh = make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))])
    devices = axes["context"]
    cache = Cache.empty(CONFIG, 2, 24, mesh, jnp.dtype(dtype))
    random = np.random.default_rng(0)
    length = 0
    for count in (8, 4, 8):
        new = random.normal(size=(2, 2, 2, 2, count, 8)).astype(np.float32)
        positions = np.broadcast_to(length + np.arange(count, dtype=np.int32), (2, count))
        real = np.array([[length == 8], [True]]) & np.ones((2, count), bool)
        cache = cache.append(*new, positions, real.astype(np.int32), mesh=mesh)
        length += count
    cache = cache.truncate(12)
    for alive in (0, 1):
        new = random.normal(size=(2, 2, 2, 2, 1, 8)).astype(np.float32)
        row = np.array([[0], [alive]], np.int32)
        cache = cache.append(*new, np.full((2, 1), 12, np.int32), row, mesh=mesh)
    cache = cache.grow(40, mesh=mesh)
    recent = jax.jit(lambda cache: cache.recent(3, mesh=mesh))(jax.device_put(cache, shardings(mesh)))
    assert recent.length == 3 * devices and recent.dtype == cache.dtype
    np.testing.assert_array_equal(recent.fill, np.minimum(cache.fill, 3))
    assert set(np.asarray(cache.fill).sum(axis=0)) == {4, 13}
    for name, x in cache.parts.items():
        slot_axis = SLOT_AXIS[name] - 1
        for row in range(2):
            shares = np.split(np.take(np.asarray(x), row, ROW_AXIS[name]), devices, slot_axis)
            starts = [max(int(fill) - 3, 0) for fill in cache.fill[:, row]]
            expected = [
                np.take(share, range(start, start + 3), slot_axis) for share, start in zip(shares, starts)
            ]
            found = np.take(np.asarray(getattr(recent, name)), row, ROW_AXIS[name])
            np.testing.assert_array_equal(found, np.concatenate(expected, slot_axis))
    assert cache.recent(40 // devices, mesh=mesh) is cache


def test_without_a_mesh(model, whole):
    cache = Cache.empty(CONFIG, 2, 20)
    rows = TOKENS[:, :20], np.broadcast_to(np.arange(20, dtype=np.int32), (2, 20)), np.ones((2, 20), np.int32)
    hidden, cache = model.extend(*(jnp.asarray(x) for x in rows), cache, fresh=True)
    np.testing.assert_allclose(hidden @ model.head(), whole[:, :20], atol=2e-5)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(UserError, match="0 rows of 5"):
        Cache.empty(CONFIG, 0, 5)
    mesh = ring(2)
    cache = Cache.empty(replace(CONFIG, num_layers=1), 1, 8, mesh)
    new = (
        jnp.zeros((1, 1, 3, 2, 8)),
        jnp.zeros((1, 1, 3, 2, 8)),
        jnp.zeros((1, 3), jnp.int32),
        jnp.ones((1, 3), jnp.int32),
    )
    with pytest.raises(UserError, match="block of 3 tokens for a cache on 2 devices"):
        cache.append(*new, mesh=mesh)
