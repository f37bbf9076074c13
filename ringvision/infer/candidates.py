"""Drawing by choice: for a model that was taught to say what is to be seen, not to draw what is said.

    p(frame | prompt)  ~  p(frame) * p(prompt | frame) ** guidance

In: what the model has read so far. Out: the ids of one of several drafts of a frame, drawn without any
prompt, each in a row of its own, and weighed by how much the model, asked what is there, expects the prompt
for an answer. The chosen draft is what all rows go on from: a particle filter (Gordon, Salmond and Smith,
1993) whose weights are those of classifier guidance, so that guidance means the same in both.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.infer.guidance import Guide, Reading
from ringvision.infer.sampler import Sampler, choose
from ringvision.mesh import num_shards
from ringvision.models.cache import Cache, shardings
from ringvision.models.transformer import Transformer

STEP = 32
"""What is judged is padded to a multiple of so many tokens."""


class Candidates:
    """The compiled functions for drafts of one guide's model, from the ids of its range."""

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self._choose, self._weigh, self._keep = _compiled(
            guide.model.graphdef, guide.model.mesh, guide.ids[0]
        )

    def draw(self, reading: Reading, count: int, sampler: Sampler, *, first: int = 0) -> np.ndarray:
        """Draws and reads `count` ids in every row: int32 [rows, count]. The rows must have read equally
        much.
        """
        key = sampler.key()
        knobs = sampler.knobs()
        drawn = []
        for index in range(first, first + count):
            drawn.append(self._choose(reading.logits, key, np.int32(index), *knobs))
            self.guide.push(reading, drawn[-1])
        return np.concatenate([np.asarray(tokens) for tokens in drawn], axis=1)[: reading.prompts]

    def weigh(self, reading: Reading, question: np.ndarray, answers: Sequence[np.ndarray]) -> np.ndarray:
        """How much each row, asked `question`, expects one of `answers` (int32 [n] each): log-probabilities,
        float32 [prompts].

        What was asked is forgotten again.
        """
        length = int(reading.lengths.max())
        ring = num_shards(self.guide.model.mesh, "length")
        scores = []
        for answer in answers:
            asked = np.concatenate([question, answer]).astype(np.int32)
            step = -(-STEP // ring) * ring
            tokens = np.zeros(-(-len(asked) // step) * step, np.int32)
            targets = np.full(tokens.shape, -1, np.int32)
            tokens[: len(asked)] = asked
            targets[len(question) - 1 : len(asked) - 1] = answer
            score, reading.cache = self._weigh(
                self.guide.model.params,
                cache=reading.cache,
                tokens=tokens,
                targets=targets,
                lengths=reading.lengths,
                count=np.int32(len(asked)),
                length=np.int32(length),
            )
            scores.append(np.asarray(score))
        return np.logaddexp.reduce(scores, axis=0)[: reading.prompts]

    def keep(self, reading: Reading, row: int) -> None:
        """All rows go on from where `row` is."""
        reading.cache = self._keep(reading.cache, np.int32(row))


def room_to_weigh(question: int, answer: int, mesh: Mesh) -> int:
    """Slots that weighing takes, until what was asked is forgotten."""
    step = -(-STEP // num_shards(mesh, "length")) * num_shards(mesh, "length")
    return -(-(question + answer) // step) * step


@lru_cache(maxsize=32)
def _compiled(graphdef: Any, mesh: Mesh, first: int) -> tuple[Any, Any, Any]:
    """The jitted `_choose`, `_weigh` and `_keep`, shared by all of one shape on one mesh; outputs are pinned
    to where they began.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    cache = shardings(mesh)
    weigh = partial(_weigh, graphdef=graphdef, mesh=mesh)
    return (
        jax.jit(partial(_choose, first=first), out_shardings=everywhere),
        jax.jit(weigh, donate_argnames="cache", out_shardings=(everywhere, cache)),
        jax.jit(_keep, donate_argnums=0, out_shardings=cache),
    )


def _choose(logits: jax.Array, key: jax.Array, index: jax.Array, *knobs: jax.Array, first: int) -> jax.Array:
    """logits [rows, ids] -> an id for each row, int32 [rows, 1]."""
    return first + choose(logits, jax.random.fold_in(key, index), *knobs)[:, None]


def _weigh(
    params: Any,
    *,
    cache: Cache,
    tokens: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    count: jax.Array,
    length: jax.Array,
    graphdef: Any,
    mesh: Mesh,
) -> tuple[jax.Array, Cache]:
    """tokens, targets int32 [T] for all rows -> sum over targets (-1: none) of log p after each token,
    float32 [rows], and the cache.
    """
    model: Transformer = nnx.merge(graphdef, params)
    rows = len(lengths)
    index = jnp.arange(len(tokens), dtype=jnp.int32)
    real = (lengths[:, None] > 0) & (index < count)
    spread_tokens = jnp.broadcast_to(tokens, (rows, len(tokens)))
    hidden, cache = model.extend(
        spread_tokens, lengths[:, None] + index, real.astype(jnp.int32), cache, mesh=mesh
    )
    logits = jnp.einsum("BTD,DV->BTV", hidden, model.head(), preferred_element_type=jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[None, :, None], axis=-1)[..., 0]
    score = jnp.sum(jnp.where(targets >= 0, chosen - jax.nn.logsumexp(logits, axis=-1), 0), axis=1)
    return score, cache.truncate(length)


def _keep(cache: Cache, row: jax.Array) -> Cache:
    def copied(array: jax.Array, axis: int) -> jax.Array:
        return jnp.broadcast_to(jax.lax.dynamic_index_in_dim(array, row, axis), array.shape)

    rows = {name: copied(getattr(cache, name), 0) for name in ("positions", "segment_ids")}
    return replace(cache, k=copied(cache.k, 1), v=copied(cache.v, 1), **rows)
