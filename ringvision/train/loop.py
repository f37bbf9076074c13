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
from dataclasses import dataclass
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
from ringvision.errors import Interrupted
from ringvision.train.answer_accuracy import score, table
from ringvision.train.export import export, exported
from ringvision.train.flops import flops_per_token, peak_flops
from ringvision.train.initial_state import completed, describe
from ringvision.train.ledger import Ledger
from ringvision.train.memory import give_back_freed_memory
from ringvision.train.metrics_file import lost_seconds
from ringvision.train.record import Record
from ringvision.train.resume import MODEL_FILE, RUN_FILE, check_resume, fingerprint
from ringvision.train.rollback import Rollbacks
from ringvision.train.run_lock import alone
from ringvision.train.stage import Stage, open_stage
from ringvision.train.starting_point import Start, starting_point
from ringvision.train.state import TrainState
from ringvision.train.window import Report, Window

STOP = 1
SAVE_FAILED = 2
"""What a process tells the others with its part of a batch; where there are several, the largest counts."""
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
            disagree, another run writes to config.out, nothing can be saved, or the loss stays no number. The
            run can go on from its last checkpoint.
        Interrupted: by SIGTERM or Ctrl-C, after everything was saved.
    """
    with ending_together(), StopRequest() as stop:
        config = completed(config)
        agreed("the config", fingerprint(config))
        out = Path(config.out)
        last = min(config.total_steps, stop_at or config.total_steps)
        kept = config.checkpoints
        ledger = Ledger()
        with (
            alone(out),
            Checkpoints(out / "checkpoints", keep=kept.keep, keep_every=kept.keep_every) as checkpoints,
            ledger.noticing_compilation(),
        ):
            with ledger.spend("starting"):
                changes = _changes(config, checkpoints, allow_changes)
                start = starting_point(config, checkpoints, mesh)
            start.said += [f"changed since the run began: {change}" for change in changes]
            ledger.add(start.notes.get("ledger") or {})
            ledger.lost(lost_seconds(out, start.step))
            with _record(config, start, ledger, last, quiet) as record:
                record.settings(RUN_FILE, config.to_dict())
                rollbacks = Rollbacks(config, checkpoints)
                run = Run(config, checkpoints, ledger, record, stop, mesh, last, rollbacks)
                state = run.through_stages(start)
                checkpoints.wait()
                return state


def _changes(config: TrainConfig, checkpoints: Checkpoints, allow_changes: bool) -> list[str]:
    """What is other in the config than in the run that is gone on with: nothing, where that was not saved
    yet. UserError as of `check_resume`, on all processes.
    """
    if checkpoints.latest() is None:
        return []
    with failing_together("looking at what the run was"):
        return check_resume(Path(config.out), config, allow_changes=allow_changes)


def _record(config: TrainConfig, start: Start, ledger: Ledger, last: int, quiet: bool) -> Record:
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
class Run:
    """What lives as long as a run does."""

    config: TrainConfig
    checkpoints: Checkpoints
    ledger: Ledger
    record: Record
    stop: StopRequest
    mesh: Mesh | None
    last: int
    rollbacks: Rollbacks

    def through_stages(self, start: Start) -> TrainState:
        """The stages from where the run stands, one after another. Of a run that was done before, what it
        leaves behind is written once more: it may have been killed while that was written the first time.
        """
        stage = start.stage
        state = start.state
        data = start.notes.get("data")
        if state is not None and start.step == self.last:
            self._export(stage, state)
        while state is None or int(state.step) < self.last:
            with self.ledger.spend("starting"):
                if state is None or int(state.step) == stage.last:
                    if state is not None:
                        stage = open_stage(self.config, stage.number + 1, mesh=self.mesh)
                    state = stage.begun(state)
                    data = None
                self.record.settings(MODEL_FILE, stage.model_settings)
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
                    state, metrics = step_fn(state, stage.put(loaded.batch), self._signals(stage))
                    if fresh:  # what compiling took
                        give_back_freed_memory()
                        fresh = False
                    step += 1
                    due = Due.at(step, last, config)
                    known = window.add(metrics, wait=any(due))
                signal = max((report.signal for report in known), default=0)
                if signal == SAVE_FAILED:
                    self.checkpoints.wait()  # raises what was wrong, on every process
                stopping = signal == STOP and step < self.last
                if any(report.refused >= config.health.after for report in known) and not stopping:
                    state = self._go_back(stage, state, step, known[-1])
                    step = int(state.step)
                    window.forget()
                    continue
                if due.logging:
                    self.record.write(step, {**window.close(), "learning_rate": stage.rate(step)})
                else:
                    self.record.advance(step)
                if stopping:
                    self._save(stage, state, step, loaded)
                    self._stopped(step)
                if due.evaluating:
                    self._evaluate(stage, state, step)
                    window.restart()
                # what comes out of refused steps is as it was before them, and that may be what is wrong
                if due.saving and (step == last or not known[-1].refused):
                    self._save(stage, state, step, loaded)
                    self.rollbacks.saved(step)
                    if config.checkpoints.export or step == self.last:
                        self._export(stage, state)
                    window.restart()
        return state

    def _signals(self, stage: Stage) -> jax.Array:
        """What this process has to tell the others, as an input of the step: int32 [devices]."""
        told = SAVE_FAILED if self.checkpoints.failed else STOP if self.stop.asked else 0
        return signals(stage.mesh, told)

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
            if self.record.read("loss")[0]:  # nothing is written yet where lines are rarer than checkpoints
                self.record.curves_png(self.record.directory / "curves.png", CURVES)

    def _stopped(self, step: int) -> NoReturn:
        with self.ledger.spend("saving"):
            self.checkpoints.wait()
        raise Interrupted(f"stopped after step {step}, which is saved; the same command goes on from there")

    def _go_back(self, stage: Stage, state: TrainState, step: int, report: Report) -> TrainState:
        """Where the run goes on after steps that were refused one after another."""
        with self.ledger.spend("starting"):
            state, reached, line = self.rollbacks.go_back(stage, state, step, report)
        if reached is not None:
            self.record.rolled_back(reached)
        self.record.say(line)
        return state


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
