"""How a run goes back after steps that were refused one after another, and when it has done so too often.

    Stage, state, the report of the last of them  --Rollbacks.go_back-->  the state of an earlier checkpoint

The batches that were read meanwhile are not read again: the data go on.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax.numpy as jnp

from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.errors import UserError
from ringvision.train.initial_state import saved_state
from ringvision.train.stage import Stage
from ringvision.train.state import TrainState
from ringvision.train.window import Report


@dataclass
class Rollbacks:
    """times: how often the run went back, and did not get past `failed_at`, the furthest step from which it
    did.
    """

    run: TrainConfig
    checkpoints: Checkpoints
    times: int = 0
    failed_at: int = 0

    def saved(self, step: int) -> None:
        """A step was saved: one further than ever before means that going back has helped."""
        if step > self.failed_at:
            self.times = 0

    def go_back(
        self, stage: Stage, state: TrainState, step: int, report: Report
    ) -> tuple[TrainState, int | None, str]:
        """Back to the newest good checkpoint of the stage; when that did not help, to the one before it, and
        so on; at the furthest to where the stage began.

        Args:
            stage: that the run is in.
            state: after the refused steps, which have left it as it was.
            step: the last of them.
            report: what it said.

        Returns:
            The state to go on with; the step it is of, or None where nothing is saved yet and it is the one
            that was given; a line that says so.

        Raises:
            UserError: the run went back as often as its config allows.
        """
        numbers = f"loss {report.loss:.4g}, gradient norm {report.gradient_norm:.4g}"
        if self.times >= stage.config.health.rollbacks:
            raise UserError(
                f"{report.refused} steps in a row were refused up to step {step} ({numbers}), and going "
                f"back {self.times} times did not help; look at the data, or go on from the last "
                "checkpoint with a lower lr or clip_norm"
            )
        self.times += 1
        self.failed_at = max(self.failed_at, step)
        self.checkpoints.wait()
        found = self._earlier(stage)
        if found is None:
            line = f"step {step}: {numbers}: refused, and nothing is saved yet; goes on past these batches"
            return _trusted(state), None, line
        state, reached, skipped = found
        line = f"step {step}: {numbers}: refused; back to step {reached}, and past these batches"
        return _trusted(state), reached, "; ".join([line, *skipped])

    def _earlier(self, stage: Stage) -> tuple[TrainState, int, list[str]] | None:
        """The state, its step, and what was passed over as damaged; None where the stage has no checkpoint
        behind it.
        """
        steps = [step for step in self.checkpoints.steps() if step >= stage.first]
        if not steps:
            return None
        wanted = steps[-min(self.times, len(steps))]
        like = partial(saved_state, self.run, mesh=stage.mesh, code_offset=stage.part.code_offset)
        found = self.checkpoints.restore(like, wanted)
        if found.step < stage.first:
            return None
        at_start = found.step == stage.first  # its optimizer is that of the stage before
        return stage.begun(found.tree) if at_start else found.tree, found.step, found.skipped


def _trusted(state: TrainState) -> TrainState:
    """The state with none of its steps refused: those to come are judged anew."""
    return replace(state, health=replace(state.health, refused=jnp.zeros_like(state.health.refused)))
