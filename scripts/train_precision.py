"""How far the loss of training in bfloat16 is from that in float32: one model, the same batches, both types.

    python scripts/train_precision.py [--preset small] [--steps 100] [--json]

Rows are drawn from a random table of which token follows which, with one token in ten at random, so that
there is something to learn and a least loss. Both runs begin with the same parameters; both keep parameters,
moments and gradients in float32. Prints the mean loss of the last ten steps of each and how far apart they
are.
"""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax import nnx

from ringvision.config import OptimizerConfig, TrainConfig
from ringvision.data.packing import Batch
from ringvision.data.sources import DataConfig, TokenizedData
from ringvision.mesh import make_mesh
from ringvision.models.presets import PRESETS
from ringvision.models.transformer import Transformer
from ringvision.train.part import Part
from ringvision.train.state import optimizer, start
from ringvision.train.step import compile_step

TOKENS = 64
"""Of the vocabulary, the ones that occur."""
LAST = 10


def batch(seed: int, rows: int, length: int) -> Batch:
    """Rows of one document each, int32 and float32 [rows, length]."""
    table = np.random.default_rng(0).integers(0, TOKENS, TOKENS)
    random = np.random.default_rng([1, seed])
    tokens = random.integers(0, TOKENS, (rows, length + 1)).astype(np.int32)
    follows = random.random((rows, length + 1)) > 0.1
    for index in range(1, length + 1):
        tokens[:, index] = np.where(follows[:, index], table[tokens[:, index - 1]], tokens[:, index])
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    ones = np.ones((rows, length), np.int32)
    weights = np.full((rows, length), 1 / length, np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], positions, ones, weights)


def losses(config: TrainConfig) -> list[float]:
    """The loss of every step of a run."""
    mesh = make_mesh(context=1, devices=jax.devices()[:1])
    part = Part(config, code_offset=config.transformer.vocab_size)
    tx = optimizer(config)

    @jax.jit
    def first() -> Any:
        trained, frozen = part.start(nnx.split(Transformer(config.transformer, rngs=nnx.Rngs(0)))[1])
        return start(trained, tx, config, frozen=frozen)

    state = first()
    step = compile_step(part, tx, config, mesh, state)
    found = []
    for number in range(config.steps):
        state, metrics = step(state, batch(number, config.data.rows, config.data.length))
        found.append(float(metrics["judged"][0]))
        if (number + 1) % 10 == 0:
            print(f"{config.compute_dtype} step {number + 1}: {found[-1]:.4f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Read the command line, train twice, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = DataConfig(
        (TokenizedData("none"),), arguments.length, arguments.rows, text_model="none", tokenizer="none"
    )
    config = TrainConfig(
        name="precision",
        out="none",
        model=PRESETS[arguments.preset],
        data=data,
        steps=arguments.steps,
        optimizer=OptimizerConfig(kind=arguments.optimizer, warmup_steps=arguments.steps // 10),
    )
    last = {
        dtype: float(np.mean(losses(replace(config, compute_dtype=dtype))[-LAST:]))
        for dtype in ("float32", "bfloat16")
    }
    apart = abs(last["bfloat16"] / last["float32"] - 1)
    found = {"preset": arguments.preset, "steps": arguments.steps, **last, "apart": apart}
    print(json.dumps(found) if arguments.json else found)


if __name__ == "__main__":
    main()
