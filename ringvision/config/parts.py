"""The parts that configs are made of: how gradients change parameters, the mesh, checkpoints, evaluation, and
so on. Each lists what is wrong with it; the config that holds it raises all of that at once.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ringvision.checks import Checks
from ringvision.errors import UserError


class ConfigPart(Protocol):
    """A part of a config: a frozen dataclass that says what is wrong with it, a sentence each."""

    def problems(self) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the parameters.

    kind: "adamw"; or "muon", which takes steps of `muon_lr` (scheduled like lr) for the layers' matrices, and
        AdamW for the rest.
    lr, min_lr, warmup_steps: the rate rises to `lr` over `warmup_steps` and falls to `min_lr` along a cosine.
    weight_decay: not of norms, biases and the embedding table.
    clip_norm: to what norm all gradients together are clipped.
    b1, b2: Adam's.
    ema: how much of its past a moving average of the weights keeps (0.999; 0: no average); what is averaged
        is what is exported.
    """

    kind: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup_steps: int = 200
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    muon_lr: float = 0.02
    ema: float = 0.0

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.that(self.kind in ("adamw", "muon"), f"kind is {self.kind!r}, expected adamw or muon")
        checks.positive("lr", "muon_lr", "clip_norm")
        checks.at_least(0, "min_lr", "warmup_steps", "weight_decay")
        checks.that(
            self.min_lr <= self.lr, f"min_lr is {self.min_lr}, expected at most lr, which is {self.lr}"
        )
        checks.fraction("b1", "b2", "ema")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh gets (mesh.py). context None: all that the others leave."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int | None = None
    ulysses: int = 1

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(1, "data", "fsdp", "tensor", "context", "ulysses")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state of a run is saved, and which of these states stay.

    every: after how many steps; and always after the last.
    keep: the newest so many stay.
    keep_every: and those of steps that this divides; None: no others.
    export: whether the model folder is written with each; it always is after the last step.
    """

    every: int = 1000
    keep: int = 2
    keep_every: int | None = None
    export: bool = True

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(1, "every", "keep", "keep_every")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class HealthConfig:
    """Which steps are refused: those whose loss or gradient norm is no number, or far above what it was.

    window: among how many of the last applied steps the median and the deviation from it are taken.
    deviations: how many deviations above the median are far.
    after: so many refused in a row, and the run goes back to its last good checkpoint and past their batches.
    rollbacks: so often without a checkpoint in between, then it stops.
    """

    window: int = 64
    deviations: float = 8.0
    after: int = 3
    rollbacks: int = 3

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(2, "window")
        checks.positive("deviations")
        checks.at_least(1, "after")
        checks.at_least(0, "rollbacks")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a run is scored while it goes on.

    folder: of held-out videos, of the same kind as those that are trained on; None: no evaluation.
    every: after how many steps; 0: never.
    examples: how many questions are asked.
    """

    folder: str | None = None
    every: int = 1000
    examples: int = 256

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(0, "every")
        checks.at_least(1, "examples")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Pairs of matrices of rank `rank` beside the layers' matrices, weighed by `alpha` / `rank`."""

    rank: int = 16
    alpha: float = 32.0

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(1, "rank")
        checks.positive("alpha")
        return checks.problems


def problems_of(config: Any, *names: str) -> list[str]:
    """What the parts of these names say is wrong with them, each sentence beginning with a dotted name."""
    parts: Iterable[tuple[str, ConfigPart]] = ((name, getattr(config, name)) for name in names)
    return [f"{name}.{problem}" for name, part in parts for problem in part.problems()]


def refuse(config: Any, problems: Sequence[str]) -> None:
    if problems:
        raise UserError(f"{type(config).__name__}: {'; '.join(problems)}; correct the config")
