"""A model of short videos gets what one of hours has, and begins by finding the frame of a time that is asked
for.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import stretch_model
from flax import nnx

from ringvision import model_folder
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.ops.rope import rope
from ringvision.vocabulary import Vocabulary

SHORT = TransformerConfig(
    vocab_size=200 + 64 + 2,
    embed_dim=192,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    hidden_dim=64,
    frame_period=19,
    code_offset=200,
)
PIECES = list(range(60, 60 + stretch_model.MINUTES))
LAST = 9


@pytest.fixture(scope="module")
def stretched() -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(settings, the arrays before and after)."""
    random = np.random.default_rng(0)
    specs = model_folder.specs(
        nnx.state(nnx.eval_shape(lambda: Transformer(SHORT, rngs=nnx.Rngs(0))), nnx.Param)
    )
    before = {
        name: np.ones(shape, np.float32) if name.endswith("scale") else 0.1 * random.normal(size=shape)
        for name, (shape, _) in specs.items()
    }
    vocabulary = Vocabulary(200, 64, 1, 2, (3,), (4,))
    settings = {"transformer": SHORT.to_dict(), "vocabulary": vocabulary.to_dict()}
    after, arrays = stretch_model.stretched(settings, before, PIECES, LAST)
    return after, before, arrays


def test_the_stretched_model_is_whole(stretched: Any) -> None:
    settings, before, arrays = stretched
    config = TransformerConfig.from_dict(settings["transformer"])
    specs = model_folder.specs(
        nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    )
    assert {name: array.shape for name, array in arrays.items()} == {
        name: shape for name, (shape, _) in specs.items()
    }
    assert (config.num_heads, config.num_kv_heads, config.frame_period) == (6, 3, 18)
    # what the model did is done by the same heads; the new ones write nothing
    np.testing.assert_allclose(arrays["layers.attention.query"][:, :, :4], before["layers.attention.query"])
    assert not arrays["layers.attention.output"][:, 4:].any()
    assert not arrays["unembed.kernel"][:, SHORT.vocab_size :].any()


def test_a_time_that_is_asked_for_finds_its_frame(stretched: Any) -> None:
    """By the first of the new queries, among the frames of an hour and however far they are."""
    settings, _, arrays = stretched
    config = TransformerConfig.from_dict(settings["transformer"])
    vocabulary = Vocabulary.from_dict(settings["vocabulary"])
    table, cells = arrays["embed.table"], arrays["cells.table"]
    rows = len(table) - vocabulary.stamps
    seconds, minutes, asked = table[rows : rows + 60], table[rows + 60 : -1], table[-1]
    times = np.arange(3600)
    frames = seconds[times % 60] + minutes[times // 60] + cells[stretch_model.STAMP_PLACE]
    wanted = np.random.default_rng(1).permutation(3600)[:50]
    questions = seconds[wanted % 60] + minutes[wanted // 60] + asked

    def turned(x: np.ndarray, kernel: str, head: int, first: int, step: int) -> np.ndarray:
        x = x / np.sqrt((x**2).mean(1, keepdims=True))
        heads = x @ arrays[f"layers.attention.{kernel}"][1][:, head]
        positions = first + step * np.arange(len(x))[None]
        return np.asarray(
            rope(
                jnp.asarray(heads[None, :, None], jnp.float32),
                jnp.asarray(positions),
                theta=config.rope_theta,
                scaling=config.rope_scaling,
            )
        )[0, :, 0]

    query = turned(questions, "query", 4, 64_900, 30)
    scores = query @ turned(frames, "key", 2, 20, 18).T / np.sqrt(config.head_dim)
    np.testing.assert_array_equal(scores.argmax(1), wanted)
    itself = (query * turned(questions, "key", 2, 64_900, 30)).sum(1) / np.sqrt(config.head_dim)
    assert (itself < scores.max(1) - 3).all()


def test_numbers_are_points_that_lie_apart() -> None:
    points = stretch_model.circles(120)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(120)
    assert distances.min() > 1.8
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.sqrt(len(stretch_model.TURNS)))
    rows = np.random.default_rng(0).normal(size=(200, 8))
    moved = stretch_model.with_numbers(rows, PIECES, np.pad(points[:, :1], ((0, 0), (0, 7))))
    changed = np.abs(moved - rows).max(1) > 0
    assert set(np.flatnonzero(changed)) == set(PIECES)
