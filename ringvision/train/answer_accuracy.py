"""How well a model answers while it is being trained, without generating: every answer is fed, and must be
what it would have said.

In: exams (batches with one question an example) and parameters. Out: the share of answers, by kind of
question, of which every token had the highest logit. For greedy decoding this is exact: an answer right by
this measure is the answer it gives.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.data.loader import EvalBatch
from ringvision.data.packing import Batch
from ringvision.mesh import TRAINING
from ringvision.models.transformer import Transformer


def mark(
    eval_batches: Sequence[EvalBatch], params: Any, graphdef: Any, mesh: Mesh, put: Callable[..., Any]
) -> tuple[dict[str, float], dict[str, int]]:
    """-> (share right by kind and under "all", questions by kind). put: lays a batch, and answers like it, on
    the mesh.
    """
    right = dict[str, int]()
    asked = dict[str, int]()
    for eval_batch in eval_batches:
        batch, answers = put(eval_batch.batch, eval_batch.answers)
        missed = np.asarray(
            _missed(params, batch, answers, graphdef=graphdef, mesh=mesh, count=eval_batch.answers.size)
        )
        for kind, misses in zip(eval_batch.kinds, missed, strict=False):
            for name in (kind, "all"):
                asked[name] = asked.get(name, 0) + 1
                right[name] = right.get(name, 0) + int(misses == 0)
    return {kind: right[kind] / asked[kind] for kind in sorted(asked)}, asked


def table(scores: dict[str, float], asked: dict[str, int]) -> str:
    """One line: every kind with its score and number of questions."""
    return "right: " + "  ".join(f"{kind} {score:.0%} of {asked[kind]}" for kind, score in scores.items())


@partial(jax.jit, static_argnames=("graphdef", "mesh", "count"))
def _missed(
    params: Any, batch: Batch, answers: jax.Array, *, graphdef: Any, mesh: Mesh, count: int
) -> jax.Array:
    """How many tokens of each answer are not the likeliest: int32 [count]. Logits exist for one row at a
    time.
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids, mesh=mesh, rules=TRAINING)
    head = model.head()
    guesses = jax.lax.map(lambda row: jnp.argmax(row @ head, axis=-1), hidden)
    wrong = (guesses != batch.targets) & (answers >= 0)
    whole = jax.lax.with_sharding_constraint(
        jnp.where(answers >= 0, answers, 0), NamedSharding(mesh, PartitionSpec())
    )
    return jnp.zeros(count, jnp.int32).at[whole].add(wrong.astype(jnp.int32))
