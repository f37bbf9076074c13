"""One stage of a run, opened: its data, its mesh, its optimizer and its compiled step.

TrainConfig, number of the stage  --open_stage-->  Stage
Stage, the state after the stage before  --begun-->  the state before its first step
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optax
from jax.sharding import Mesh

from ringvision.config import TrainConfig
from ringvision.data.evaluation_batches import EvaluationBatch
from ringvision.data.loader import Loader
from ringvision.data.stream import PromptProcessor
from ringvision.mesh import make_mesh
from ringvision.train.answer_accuracy import open_evaluation
from ringvision.train.export import model_settings
from ringvision.train.initial_state import abstract_state, first_state, next_state
from ringvision.train.inputs import batch_sharder, open_data
from ringvision.train.part import Part
from ringvision.train.state import TrainState, optimizer, schedule
from ringvision.train.step import compile_step

SEEDS_APART = 1_000_003
"""Between the seeds of the data of two stages: the second does not begin with what the first began with."""


@dataclass
class Stage:
    """A stage that is ready to run.

    config: of this stage alone. number: from 0. first: steps before it. mesh: its devices. processor, loader:
    its data. put: spreads a process's rows over the mesh. part: what is trained. tx: its optimizer.
    """

    config: TrainConfig
    number: int
    first: int
    mesh: Mesh
    processor: PromptProcessor
    loader: Loader
    put: Callable[..., Any]
    part: Part
    tx: optax.GradientTransformation

    @property
    def last(self) -> int:
        """The step after which it ends, counted from the start of the run."""
        return self.first + self.config.steps

    @cached_property
    def eval_batches(self) -> Sequence[EvaluationBatch]:
        """Held-out questions, read when they are first asked for."""
        return open_evaluation(self.config, self.loader)

    @cached_property
    def model_settings(self) -> dict[str, Any]:
        """What the config.json of its model says."""
        return model_settings(self.config, self.processor, self.loader.vision)

    def rate(self, step: int) -> float:
        """The learning rate of a step of the run, from 1 on, where none was refused."""
        return float(schedule(self.config)(step - 1 - self.first))

    def abstract_state(self) -> TrainState:
        """The state without arrays: shapes, dtypes and shardings."""
        return abstract_state(self.config, self.tx, self.mesh, self.part)

    def begun(self, before: TrainState | None) -> TrainState:
        """The state before the stage's first step.

        before: after the stage before; None: this is the run's first.
        """
        if before is None:
            return first_state(self.config, self.tx, self.mesh, self.processor)
        return next_state(self.config, self.tx, self.mesh, self.part, before)

    def compiled(self, state: TrainState) -> Callable[..., Any]:
        """step(state, batch, signal) -> (state, metrics), for states like this one."""
        return compile_step(self.part, self.tx, self.config, self.mesh, state)


def open_stage(run: TrainConfig, number: int, *, mesh: Mesh | None = None) -> Stage:
    """Open a stage's data.

    Args:
        run: all stages; it says its model.
        number: of the stage, from 0.
        mesh: of the caller's own devices; None: all there are, as the stage's config divides them.

    Returns:
        The stage; nothing is on its devices yet.

    Raises:
        UserError: data, text model, video tokenizer and model do not fit together, or the mesh does not
            divide a batch.
    """
    config = run.of_stage(number)
    mesh = mesh or make_mesh(**asdict(config.mesh))
    put = batch_sharder(config, mesh)
    processor, loader = open_data(config, mesh, seed=config.seed + SEEDS_APART * number)
    return Stage(
        config=config,
        number=number,
        first=run.first_step(number),
        mesh=mesh,
        processor=processor,
        loader=loader,
        put=put,
        part=Part.of(config, processor.vocabulary),
        tx=optimizer(config),
    )
