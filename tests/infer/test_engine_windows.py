"""Reading videos through a window: blocks of video alone look at the end of a long cache, and give what they
give where all of it is looked at.
"""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ringvision.infer.decode_batch import DecodeBatch
from ringvision.infer.engine import Engine, Prefix, Rows, _read
from ringvision.infer.model import Model
from ringvision.mesh import make_mesh
from ringvision.models.cache import DTYPES
from ringvision.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=61,
    embed_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    hidden_dim=24,
    max_length=1024,
    code_offset=20,
    video_window=3,
)
BLOCKS = (32, 8)
RANDOM = np.random.default_rng(0)


def _words(count: int) -> np.ndarray:
    return RANDOM.integers(0, 20, count).astype(np.int32)


def _video(count: int) -> np.ndarray:
    return RANDOM.integers(20, 61, count).astype(np.int32)


FIRST = np.concatenate([_words(5), _video(195)])
MORE = np.concatenate([FIRST, _video(70), _words(3), _video(100), _words(7)])
"""Two videos, with words before, between and behind them."""
OTHER = np.concatenate([_video(64), _words(9)])


def _model(devices: int, config: TransformerConfig = CONFIG) -> Model:
    params = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))[1]
    keys = iter(jax.random.split(jax.random.key(1), 99))
    params = jax.tree.map(lambda x: x + 0.3 * (x.ndim > 1) * jax.random.normal(next(keys), x.shape), params)
    mesh = make_mesh(context=devices, devices=jax.devices()[:devices])
    return Model(config, None, jax.device_put(params, NamedSharding(mesh, PartitionSpec())), mesh)


def _answers(engine: Engine) -> tuple[Prefix, np.ndarray, list[int]]:
    """A prefix in two goes, of which a copy grows; a row that goes on from it with another video; its logits
    and four greedy tokens.
    """
    prefix = engine.prefill(MORE, after=engine.prefill(FIRST))
    batch = DecodeBatch(engine, 2, 128, prefix=prefix)
    batch.read({0: OTHER, 1: OTHER[:40]})
    logits = np.asarray(batch.logits)
    return prefix, logits, [int(token) for token in batch.decode(0, 4)]


@pytest.fixture
def reaches(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How far back each block looked, in turn."""
    seen = []
    reach = Rows._reach

    def noted(self: Rows, parts: dict[int, np.ndarray]) -> int | None:
        seen.append(reach(self, parts))
        return seen[-1]

    monkeypatch.setattr(Rows, "_reach", noted)
    return seen


@pytest.mark.parametrize(
    ("devices", "dtype"), [*((1, dtype) for dtype in DTYPES), (2, "int8"), (2, "bfloat16"), (4, "float32")]
)
def test_the_end_of_the_cache_is_enough(
    devices: int, dtype: str, reaches: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(_model(devices), blocks=BLOCKS, cache_dtype=dtype)
    prefix, logits, tokens = _answers(engine)
    near = list(reaches)
    monkeypatch.setattr(TransformerConfig, "reach", lambda self, tokens: None)
    whole, expected, drawn = _answers(engine)
    assert 3 in near and None in near and set(reaches[len(near) :]) == {None}
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(prefix.cache.positions, whole.cache.positions)
    assert tokens == drawn
    if dtype == "float32":
        row = np.concatenate([MORE, OTHER])
        at_once = np.asarray(engine.model.logits(row[None]))[0, -1]
        np.testing.assert_allclose(logits[0], at_once, rtol=0, atol=1e-5 * np.abs(at_once).max())


def test_only_blocks_of_video_in_long_caches(reaches: list[int | None]) -> None:
    engine = Engine(_model(1), blocks=BLOCKS)
    engine.prefill(np.concatenate([FIRST[:40], _words(24), _video(40)]))
    assert reaches == [None, None, 3, 3]
    del reaches[:]
    rows = Rows(engine, 2, 64, shortest=64)
    rows.read({0: _video(30), 1: _video(20)})
    rows.read({0: _video(3), 1: _words(2)})
    assert reaches == [3, None]
    del reaches[:]
    Rows(engine, 1, 32, shortest=32).read({0: _video(20)})  # less than 16 windows
    assert reaches == [None]


def test_a_block_needs_no_more_memory_in_a_longer_cache() -> None:
    """By the compiler: of keys of a layer, in float32, a block of words takes a copy, one of video none; a
    few bytes a slot go into positions.
    """
    engine = Engine(_model(1), blocks=BLOCKS, cache_dtype="bfloat16")

    def temporary(length: int, reach: int | None) -> int:
        inputs = {
            name: np.zeros((1, *more), dtype)
            for name, more, dtype in (
                ("tokens", (32,), np.int32),
                ("positions", (32,), np.int32),
                ("segment_ids", (32,), np.int32),
                ("last", (), np.int32),
                ("before", (61,), np.float32),
            )
        }
        read = engine.of_model(_read, "wc", ids=(0, 61), reach=reach)
        compiled = read.lower(engine.model.params, cache=engine.empty_cache(1, length), **inputs).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    keys = (16384 - 4096) * 2 * 4 * 4
    assert temporary(16384, None) - temporary(4096, None) > keys
    assert temporary(16384, 3) - temporary(4096, 3) < keys / 4
