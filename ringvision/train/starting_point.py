"""Where a run begins or goes on: the newest good checkpoint, in the stage that made it.

TrainConfig, Checkpoints  --starting_point-->  Start: stage, state, notes
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jax.sharding import Mesh

from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.train.initial_state import saved_state
from ringvision.train.stage import Stage, open_stage
from ringvision.train.state import TrainState


@dataclass
class Start:
    """Where a run begins. state: None before the first step of all. notes: of its last checkpoint, those of
    all processes put together. said: lines for the user.
    """

    stage: Stage
    state: TrainState | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        return 0 if self.state is None else int(self.state.step)


def starting_point(config: TrainConfig, checkpoints: Checkpoints, mesh: Mesh | None) -> Start:
    """Open the stage that the run is in, and restore its state.

    Args:
        config: the run; it says its model.
        checkpoints: of the run.
        mesh: of the caller's own devices; None: as the config says.

    Returns:
        The start; of a run without checkpoints its first stage.

    Raises:
        UserError: the stage's data do not fit, or no checkpoint is whole.
    """
    newest = checkpoints.latest()
    if newest is None:
        return Start(open_stage(config, 0, mesh=mesh))
    stage = open_stage(config, config.stage_at(max(newest - 1, 0)), mesh=mesh)
    like = partial(saved_state, config, mesh=stage.mesh, code_offset=stage.part.code_offset)
    found = checkpoints.restore(like)
    skipped = found.skipped
    if found.step <= stage.first:  # the good one is of an earlier stage, which may have another mesh
        stage = open_stage(config, config.stage_at(max(found.step - 1, 0)), mesh=mesh)
        found = checkpoints.restore(stage.abstract_state(), found.step)
    return Start(stage, found.tree, _joined(found.notes), list(skipped))


def _joined(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """The notes of one checkpoint as one: each process knows the state of its own rows alone."""
    joined = dict(notes[0])
    data = [one["data"] for one in notes if one.get("data")]
    if data:
        lanes = {row: lane for one in data for row, lane in one["lanes"].items()}
        joined["data"] = {**data[0], "lanes": lanes}
    return joined
