"""What a step says of itself, in a form that can be averaged over steps.

    Batch --loss_groups--> Groups --chunked_cross_entropy--> Sums --loss_means--> {name: Mean}
    [Metrics of one step, …] --averages--> {name: float}

Losses are told apart by what is predicted, `loss/text` and `loss/vision`, and by the position in the document
at which it is, `loss/position/1K-4K`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.data.packing import Batch
from ringvision.ops.losses import Groups, Sums

BOUNDS = (256, 1024, 4096, 16384, 65536, 262144)
"""The positions at which one bucket ends and the next begins."""
BUCKETS = ("0-255", "256-1023", "1K-4K", "4K-16K", "16K-64K", "64K-256K", "256K+")
KINDS = ("text", "vision")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A mean by its parts, so that means of several steps can be put together: total and weight, float32 []
    each. Weight 0: there was nothing to take a mean of.
    """

    total: jax.Array
    weight: jax.Array

    def where(self, counts: jax.Array) -> "Mean":
        """The same where `counts`, bool [], is true; else a mean of nothing, whatever the total was."""
        return Mean(jnp.where(counts, self.total, 0), jnp.where(counts, self.weight, 0))


Metrics = dict[str, Mean | jax.Array]


def loss_groups(batch: Batch, code_offset: int) -> Groups:
    """To which kind and bucket each target of a batch [B, L] belongs: ids `bucket * 2 + kind`, int32 [B, L].

    code_offset: the first token that is no text.
    """
    bounds = jnp.asarray(BOUNDS, jnp.int32)
    bucket = (batch.positions[..., None] >= bounds).sum(axis=-1, dtype=jnp.int32)  # (B, L)
    kind = (batch.targets >= code_offset).astype(jnp.int32)
    return Groups(bucket * len(KINDS) + kind, len(BUCKETS) * len(KINDS))


def loss_means(sums: Sums) -> dict[str, Mean]:
    """The loss of a batch, that of each kind and of each bucket, in nats, and the share of the weight whose
    target had the highest logit. sums: with the groups of `loss_groups`.
    """
    groups = sums.groups.reshape(len(BUCKETS), len(KINDS), 3)
    means = {"loss": Mean(sums.loss, sums.weight), "answer_accuracy": Mean(sums.correct, sums.weight)}
    for name, (loss, weight, _) in zip(KINDS, groups.sum(axis=0), strict=True):
        means[f"loss/{name}"] = Mean(loss, weight)
    for name, (loss, weight, _) in zip(BUCKETS, groups.sum(axis=1), strict=True):
        means[f"loss/position/{name}"] = Mean(loss, weight)
    return means


def averages(steps: Sequence[Mapping[str, Mean | jax.Array]]) -> dict[str, float]:
    """The means over several steps, each step by its weight; those without any weight are left out.

    steps: the metrics of each, float32 [] in every `Mean`; what is no `Mean` is left to the caller.
    """
    totals: dict[str, list[float]] = {}
    for metrics in steps:
        for name, value in metrics.items():
            if isinstance(value, Mean):
                sums = totals.setdefault(name, [0.0, 0.0])
                sums[0] += float(np.asarray(value.total))
                sums[1] += float(np.asarray(value.weight))
    return {name: total / weight for name, (total, weight) in totals.items() if weight}
