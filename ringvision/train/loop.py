"""Training the transformer: tokenized videos in, a model folder out.

    TrainConfig
      -> config.out/{run.json, metrics.jsonl, tensorboard/, curves.png, checkpoints/,
                     model/{config.json, model.safetensors, text.model}}

A run goes on from its newest checkpoint. The batch of a step depends on (seed, step) alone, so on the same
devices a run that was stopped gives the same weights, bit for bit, as one that never was. The model folder is
written with every checkpoint, so that it can be asked while the training goes on.
"""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.data.packing import Batch
from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.train.answer_accuracy import open_evaluation, score, table
from ringvision.train.export import export, exported
from ringvision.train.initial_state import abstract_state, describe, first_state
from ringvision.train.inputs import batch_sharder, open_data
from ringvision.train.part import Part
from ringvision.train.record import Record
from ringvision.train.state import TrainState, optimizer, schedule
from ringvision.train.step import Metrics, compile_step

CURVES = ("loss", "answer_accuracy", "eval/all", "gradient_norm", "learning_rate", "tokens_per_second")


def train(
    config: TrainConfig, *, stop_at: int | None = None, quiet: bool = False, mesh: Mesh | None = None
) -> TrainState:
    """Train until config.steps, or until an earlier step to go on another day.

    Args:
        config: the run.
        stop_at: the step after which to stop; None: config.steps.
        quiet: nothing is said on stderr.
        mesh: of the caller's own devices, in the place of config.mesh, which takes all there are.

    Returns:
        The state after the last step, which is also on disk.

    Raises:
        UserError: where data, text model and model do not fit together, the mesh does not divide a batch, or
            the loss is no longer a number (the last checkpoint is then from before that).
    """
    out = Path(config.out)
    mesh = mesh or make_mesh(**asdict(config.mesh))
    processor, loader = open_data(config)
    put = batch_sharder(config, mesh)
    part = Part.of(config, processor.vocabulary)
    tx = optimizer(config)
    checkpoints = Checkpoints(out / "checkpoints", keep=config.checkpoints.keep)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(abstract_state(config, tx, mesh, part)).tree
    else:
        state = first_state(config, tx, mesh, processor)
    step_fn = compile_step(part, tx, config, mesh, state)
    eval_batches = open_evaluation(config, loader)
    rate = schedule(config)

    step = int(state.step)
    last = min(config.steps, stop_at or config.steps)
    with checkpoints, Record(out, step=step, quiet=quiet) as record:
        (out / "run.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        record.say(_opening_line(config, state, mesh, step, last))
        batches = loader.batches(step)
        window = Window()
        while step < last:
            batch = next(batches)
            state, metrics = step_fn(state, put(batch))
            step += 1
            checkpoints.check()
            window.add(metrics, batch)
            if step % config.log_every == 0 or step == last:
                record.write(step, {**window.close(step), "learning_rate": float(rate(step - 1))})
            if eval_batches and (step % config.evaluation.every == 0 or step == last):
                scores, asked = score(eval_batches, exported(state, part), describe(config), mesh, put)
                record.write(step, {f"eval/{name}": x for name, x in scores.items()}, table(scores, asked))
                window.restart()
            if step % config.checkpoints.every == 0 or step == last:
                window.check(step)
                checkpoints.save(step, state)
                export(out / "model", part, processor, loader.source.info, state)
                record.curves_png(out / "curves.png", CURVES)
                window.restart()
        batches.close()
    return state


def _opening_line(config: TrainConfig, state: TrainState, mesh: Mesh, step: int, last: int) -> str:
    every = "" if state.frozen is None else f" of {_count(state.frozen):,}"
    return (
        f"{config.name}: {_count(state.params):,}{every} parameters on {mesh.size} devices, "
        f"from step {step} to {last}"
    )


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


class Window:
    """The metrics between two lines of the record, fetched from the devices only when the line is written."""

    def __init__(self) -> None:
        self._metrics: list[Metrics] = []
        self._newest: Metrics = {}
        self._filled = 0
        self._slots = 0
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, so that what is not training does not count as training."""
        self._began = time.monotonic()
        self._steps = 0
        self._tokens = 0

    def add(self, metrics: Metrics, batch: Batch) -> None:
        jax.block_until_ready(self._newest)  # one step ahead is enough
        self._newest = metrics
        self._metrics.append(metrics)
        tokens = int(np.count_nonzero(batch.segment_ids))
        self._steps = self._steps + 1
        self._tokens = self._tokens + tokens
        self._filled = self._filled + tokens
        self._slots = self._slots + batch.tokens.size

    def close(self, step: int) -> dict[str, float]:
        """The means since the last line. UserError where the newest loss is no number."""
        self.check(step)
        values = {name: float(np.mean([metrics[name] for metrics in self._metrics])) for name in self._newest}
        seconds = time.monotonic() - self._began
        if self._steps:
            values |= {"seconds_per_step": seconds / self._steps, "tokens_per_second": self._tokens / seconds}
        values["fill"] = self._filled / self._slots
        self._metrics = []
        self._filled = 0
        self._slots = 0
        self.restart()
        return values

    def check(self, step: int) -> None:
        """UserError where the newest loss or gradient is no finite number."""
        for name, value in self._newest.items():
            if not np.isfinite(value):
                raise UserError(
                    f"{name} is {float(value)} at step {step}; go back to the last checkpoint with a "
                    "lower lr or clip_norm"
                )
