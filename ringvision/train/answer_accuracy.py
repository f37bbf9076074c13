"""How well a model answers while it is being trained, without generating: every answer is fed, and must be
what the model would have said.

In: eval batches (one question an example) and parameters. Out: the share of answers, by kind of question, of
which every token had the highest logit. For greedy decoding this is exact: an answer right by this measure is
the answer it gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.config import TrainConfig
from ringvision.data.evaluation_batches import EvaluationBatch, evaluation_batches
from ringvision.data.loader import Loader
from ringvision.data.packing import Batch
from ringvision.data.sources import VideoSourceConfig
from ringvision.errors import UserError
from ringvision.mesh import TRAINING
from ringvision.models.transformer import Transformer
from ringvision.train.state import gathered_for_use


def open_evaluation(config: TrainConfig, trained_on: Loader) -> list[EvaluationBatch]:
    """The batches on which a run is scored while it goes on, those rows of them that `trained_on` has, arrays
    [B, length]; [] where there are none.

    UserError where the held-out videos were tokenized otherwise than those that are trained on, or no source
    of the config is of videos.
    """
    folder = config.evaluation.folder
    if folder is None or not config.evaluation.every:
        return []
    data = config.data
    like = next((source for source in data.sources if isinstance(source, VideoSourceConfig)), None)
    if like is None:
        raise UserError(
            "evaluation.folder is given and no source has videos; leave it out, or train on videos too"
        )
    source = replace(like, folder=folder).open(trained_on.processor, data.length)
    if source.vision and trained_on.vision and source.vision.tokenizer != trained_on.vision.tokenizer:
        raise UserError(
            f"{folder} was tokenized by another tokenizer ({source.vision.tokenizer[:8]}) than {like.folder} "
            f"({trained_on.vision.tokenizer[:8]}); tokenize both with one tokenizer"
        )
    batches = evaluation_batches(source, data.length, data.rows, config.evaluation.examples)
    own = trained_on.rows
    return [
        EvaluationBatch(jax.tree.map(lambda array: array[own], one.batch), one.answers[own], one.kinds)
        for one in batches
    ]


def score(
    eval_batches: Sequence[EvaluationBatch], params: Any, graphdef: Any, mesh: Mesh, put: Callable[..., Any]
) -> tuple[dict[str, float], dict[str, int]]:
    """How many answers are right.

    Args:
        eval_batches: one question an example, the rows of this process, arrays [B, L].
        params: of the whole model.
        graphdef: the transformer, without arrays.
        mesh: the devices that the arrays are spread over.
        put: spreads a batch, and answers like it, over the mesh.

    Returns:
        The share that is right by kind of question and under "all", and how many questions of each there are.
    """
    right = dict[str, int]()
    asked = dict[str, int]()
    for eval_batch in eval_batches:
        batch, answers = put(eval_batch.batch, eval_batch.answers)
        missed = np.asarray(_missed(params, batch, answers, graphdef=graphdef, mesh=mesh, count=answers.size))
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
    """How many tokens of each answer are not the likeliest: int32 [count], for batch and answers [B, L]."""
    model: Transformer = nnx.merge(graphdef, gathered_for_use(params, mesh))
    hidden = model.hidden(
        batch.tokens, batch.positions, batch.segment_ids, mesh=mesh, rules=TRAINING
    )  # (B, L, D)
    head = model.head()  # (D, V)
    # One row after another: logits (L, V) of a single row exist at a time.
    guesses = jax.lax.map(lambda row: jnp.argmax(row @ head, axis=-1), hidden)  # (B, L)
    wrong = (guesses != batch.targets) & (answers >= 0)
    everywhere = NamedSharding(mesh, PartitionSpec())
    numbers = jax.lax.with_sharding_constraint(jnp.where(answers >= 0, answers, 0), everywhere)
    missed = jnp.zeros(count, jnp.int32).at[numbers].add(wrong.astype(jnp.int32))
    return jax.lax.with_sharding_constraint(missed, everywhere)  # so that every process can read it
