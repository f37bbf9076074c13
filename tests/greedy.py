"""What a model goes on with: the likeliest tokens after a prompt, by the engine."""

from collections.abc import Sequence

import numpy as np

from ringvision.infer.decode_batch import DecodeBatch
from ringvision.infer.engine import Engine
from ringvision.infer.sampler import Sampler


def greedy(
    engine: Engine, prompt: Sequence[int] | np.ndarray, count: int, *, ids: tuple[int, int] | None = None
) -> list[int]:
    """The `count` ids, of the range `ids`, that follow int32 [n] `prompt`, read in one row alone."""
    batch = DecodeBatch(engine, 1, engine.slots_for(len(prompt), generate=count), ids=ids)
    batch.read({0: np.asarray(prompt, np.int32)})
    batch.sample(0, Sampler())
    return list(batch.decode(0, count))
