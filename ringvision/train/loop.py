"""Training the transformer: a mixture of tokenized videos and text in, a model folder out.

    TrainConfig
      -> config.out/{run.json, model.json, metrics.jsonl, ledger.json, tensorboard/, curves.png, checkpoints/,
                     model/{config.json, model.safetensors, text.model}}

A run goes on from its newest good checkpoint, on as many processes and devices as there are then. A row of a
batch depends on the seed, the sources and its number alone, so on the same devices a run that was stopped
gives the same weights, bit for bit, as one that never was. All processes do the same thing at the same step:
that one of them was asked to stop travels with its part of the batch, and all read it in the metrics of that
step. Where one fails, all end.
"""

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from jax.sharding import Mesh

from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.data.loader import Loaded
from ringvision.distributed import (
    StopRequest,
    agreed,
    ending_together,
    failing_together,
    is_main,
    process_count,
    signals,
)
from ringvision.errors import Interrupted, UserError
from ringvision.train.answer_accuracy import score, table
from ringvision.train.export import export, exported
from ringvision.train.flops import flops_per_token, peak_flops
from ringvision.train.initial_state import completed, describe
from ringvision.train.ledger import Ledger
from ringvision.train.memory import give_back_freed_memory
from ringvision.train.metrics_file import lost_seconds
from ringvision.train.record import Record
from ringvision.train.resume import MODEL_FILE, RUN_FILE, check_resume, fingerprint
from ringvision.train.run_status import replace_json
from ringvision.train.stage import Stage, open_stage
from ringvision.train.state import TrainState
from ringvision.train.window import Report, Window

CURVES = ("loss", "answer_accuracy", "eval/all", "gradient_norm", "learning_rate", "tokens_per_second")


def train(
    config: TrainConfig,
    *,
    stop_at: int | None = None,
    quiet: bool = False,
    mesh: Mesh | None = None,
    allow_changes: bool = False,
) -> TrainState:
    """Train through all stages, or until an earlier step to go on another day.

    Args:
        config: the run.
        stop_at: the step after which to stop; None: the last.
        quiet: nothing is said on stderr.
        mesh: of the caller's own devices, in the place of config.mesh, which takes all there are.
        allow_changes: whether a run may go on with a config that changes what it learns.

    Returns:
        The state after the last step, which is also on disk.

    Raises:
        UserError: data, text model and model do not fit together, the mesh does not divide a batch, processes
            disagree, nothing can be saved, or the loss stays no number. The run can go on from its last
            checkpoint.
        Interrupted: by SIGTERM or Ctrl-C, after everything was saved.
    """
    with ending_together(), StopRequest() as stop:
        config = completed(config)
        agreed("the config", fingerprint(config))
        out = Path(config.out)
        with failing_together("looking at what the run was"):
            changes = check_resume(out, config, allow_changes=allow_changes)
        last = min(config.total_steps, stop_at or config.total_steps)
        kept = config.checkpoints
        with Checkpoints(out / "checkpoints", keep=kept.keep, keep_every=kept.keep_every) as checkpoints:
            start = _resume(config, checkpoints, mesh)
            start.said += [f"changed since the run began: {change}" for change in changes]
            ledger = Ledger(earlier=start.notes.get("ledger"))
            ledger.lost(lost_seconds(out, start.step))
            with ledger.noticing_compilation(), _record(config, start, ledger, last, quiet) as record:
                if is_main():
                    replace_json(out / RUN_FILE, config.to_dict())
                run = Run(config, checkpoints, ledger, record, stop, mesh, last)
                state = run.through_stages(start)
                checkpoints.wait()
                return state


def _record(config: TrainConfig, start: "Start", ledger: Ledger, last: int, quiet: bool) -> Record:
    """The run's record, in which what is to be said of its start is said."""
    record = Record(
        Path(config.out),
        step=start.step,
        steps=last,
        quiet=quiet,
        main=is_main(),
        ledger=ledger,
        wandb=config.wandb,
        config=config.to_dict(),
    )
    for line in start.said:
        record.say(line)
    return record


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


def _resume(config: TrainConfig, checkpoints: Checkpoints, mesh: Mesh | None) -> Start:
    """The newest good checkpoint, in the stage that made it."""
    steps = checkpoints.steps()
    if not steps:
        return Start(open_stage(config, 0, mesh=mesh))
    stage = open_stage(config, config.stage_at(max(steps[-1] - 1, 0)), mesh=mesh)
    found = checkpoints.restore(stage.abstract_state())
    if found.step <= stage.first:  # the good one is of an earlier stage
        stage = open_stage(config, config.stage_at(max(found.step - 1, 0)), mesh=mesh)
        found = checkpoints.restore(stage.abstract_state(), found.step)
    return Start(stage, found.tree, _joined(found.notes), list(found.skipped))


def _joined(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """The notes of one checkpoint as one: each process knows the state of its own rows alone."""
    joined = dict(notes[0])
    data = [one["data"] for one in notes if one.get("data")]
    if data:
        lanes = {row: lane for one in data for row, lane in one["lanes"].items()}
        joined["data"] = {**data[0], "lanes": lanes}
    return joined


@dataclass
class Run:
    """What lives as long as a run does. rollbacks: how often it went back, and did not get past `failed_at`,
    the furthest step from which it did.
    """

    config: TrainConfig
    checkpoints: Checkpoints
    ledger: Ledger
    record: Record
    stop: StopRequest
    mesh: Mesh | None
    last: int
    rollbacks: int = 0
    failed_at: int = 0

    def through_stages(self, start: Start) -> TrainState:
        """The stages from where the run stands, one after another."""
        stage = start.stage
        state = start.state
        data = start.notes.get("data")
        while state is None or int(state.step) < self.last:
            with self.ledger.spend("starting"):
                if state is None or int(state.step) == stage.last:
                    if state is not None:
                        stage = open_stage(self.config, stage.number + 1, mesh=self.mesh)
                    state = stage.begun(state)
                    data = None
                if is_main():
                    replace_json(self.record.directory / MODEL_FILE, stage.model_settings)
                self.record.say(_opening_line(self.config, stage, state, min(self.last, stage.last)))
                for notice in stage.loader.notices:
                    self.record.say(notice)
            state = self._through_steps(stage, state, data)
        return state

    def _through_steps(self, stage: Stage, state: TrainState, data: Mapping[str, Any] | None) -> TrainState:
        """The steps of one stage, to its end or the run's.

        data: the state of its loader; None: from its first batch.
        """
        config = stage.config
        step = int(state.step)
        last = min(self.last, stage.last)
        window = self._window(stage)
        step_fn = stage.compiled(state)
        fresh = True
        with closing(stage.loader.batches(data)) as batches:
            while step < last:
                with self.ledger.spend("waiting for data"):
                    loaded = next(batches)
                with self.ledger.spend("stepping"):
                    asked = signals(stage.mesh, int(self.stop.asked))
                    state, metrics = step_fn(state, stage.put(loaded.batch), asked)
                    if fresh:  # what compiling took
                        give_back_freed_memory()
                        fresh = False
                    step += 1
                    due = Due.at(step, last, config)
                    known = window.add(metrics, wait=any(due))
                self.checkpoints.check()
                if any(report.signal for report in known):
                    self._save(stage, state, step, loaded)
                    self._stopped(step)
                if any(report.refused >= config.health.after for report in known):
                    state = self._roll_back(stage, state, step, known[-1])
                    step = int(state.step)
                    window.restart()
                    continue
                if due.logging:
                    self.record.write(step, {**window.close(), "learning_rate": stage.rate(step)})
                else:
                    self.record.advance(step)
                if due.evaluating:
                    self._evaluate(stage, state, step)
                    window.restart()
                # what comes out of refused steps is as it was before them, and that may be what is wrong
                if due.saving and (step == last or not known[-1].refused):
                    self._save(stage, state, step, loaded)
                    if config.checkpoints.export or step == self.last:
                        self._export(stage, state)
                    self.rollbacks = self.rollbacks if step <= self.failed_at else 0
                    window.restart()
        return state

    def _window(self, stage: Stage) -> Window:
        config = stage.config
        device = stage.mesh.devices.flat[0]
        peak = config.peak_flops or peak_flops(device, config.compute_dtype)
        return Window(
            config.data.rows * config.data.length,
            flops_per_token=flops_per_token(config.transformer, config.data.length),
            peak_flops=peak * stage.mesh.size if peak else None,
        )

    def _evaluate(self, stage: Stage, state: TrainState, step: int) -> None:
        if not stage.eval_batches:
            return
        with self.ledger.spend("evaluating"):
            params = exported(state, stage.part)
            scores, asked = score(stage.eval_batches, params, describe(stage.config), stage.mesh, stage.put)
        self.record.write(step, {f"eval/{name}": x for name, x in scores.items()}, table(scores, asked))

    def _save(self, stage: Stage, state: TrainState, step: int, loaded: Loaded) -> None:
        with self.ledger.spend("saving"):
            notes = {"data": loaded.state, "ledger": self.ledger.to_dict()}
            self.checkpoints.save(step, state, notes)

    def _export(self, stage: Stage, state: TrainState) -> None:
        with self.ledger.spend("saving"):
            export(self.record.directory / "model", stage.model_settings, stage.part, state)
            self.record.curves_png(self.record.directory / "curves.png", CURVES)

    def _stopped(self, step: int) -> NoReturn:
        with self.ledger.spend("saving"):
            self.checkpoints.wait()
        raise Interrupted(f"stopped after step {step}, which is saved; the same command goes on from there")

    def _roll_back(self, stage: Stage, state: TrainState, step: int, report: Report) -> TrainState:
        """The state of the last good checkpoint, after steps that were refused one after another; where there
        is none the state itself, which they left as it was.
        """
        numbers = f"loss {report.loss:.4g}, gradient norm {report.gradient_norm:.4g}"
        if self.rollbacks >= stage.config.health.rollbacks:
            raise UserError(
                f"{report.refused} steps in a row were refused up to step {step} ({numbers}), and going "
                f"back {self.rollbacks} times did not help; look at the data, or go on from the last "
                "checkpoint with a lower lr or clip_norm"
            )
        self.rollbacks += 1
        self.failed_at = max(self.failed_at, step)
        self.checkpoints.wait()
        if self.checkpoints.latest() is None:
            self.record.say(
                f"step {step}: {numbers}: refused, and nothing is saved yet; goes on past these batches"
            )
            return replace(state, health=replace(state.health, refused=state.health.refused * 0))
        steps = self.checkpoints.steps()  # going back again without a step in between, further back
        earlier = steps[-min(self.rollbacks, len(steps))]
        found = self.checkpoints.restore(stage.abstract_state(), earlier)
        self.record.rolled_back(found.step)
        self.record.say(f"step {step}: {numbers}: refused; back to step {found.step}, and past these batches")
        return found.tree


class Due(NamedTuple):
    """What is done after a step."""

    logging: bool
    evaluating: bool
    saving: bool

    @classmethod
    def at(cls, step: int, last: int, config: TrainConfig) -> "Due":
        every = config.log_every, config.evaluation.every, config.checkpoints.every
        return cls(*(bool(steps) and (step == last or step % steps == 0) for steps in every))


def _opening_line(run: TrainConfig, stage: Stage, state: TrainState, last: int) -> str:
    every = "" if state.frozen is None else f" of {_count(state.frozen):,}"
    named = run.stages[stage.number].name if run.stages else ""
    which = f"stage {stage.number + 1} of {run.num_stages}{named and f' ({named})'}: " if run.stages else ""
    where = f"{stage.mesh.size} devices" + (f" of {process_count()} processes" if process_count() > 1 else "")
    return (
        f"{run.name}: {which}{_count(state.params):,}{every} parameters on {where}, from step "
        f"{int(state.step)} to {last}"
    )


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
