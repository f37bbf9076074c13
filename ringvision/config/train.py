"""TrainConfig: all that a run of the transformer's training is told, one stage or several."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ringvision.checks import Checks
from ringvision.config.parts import (
    CheckpointConfig,
    EvaluationConfig,
    HealthConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    problems_of,
    refuse,
)
from ringvision.config.stages import StageConfig
from ringvision.data.sources import SOURCE_KINDS, DataConfig, SourceConfig
from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.models.presets import TransformerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run that trains the transformer on tokenized videos and text.

    name: what the model is called. out: the folder of the run.
    data: what is read, and how it is packed into rows (data/sources/).
    model: the transformer; None: as init_from has it.
    steps: how many in all; of a run in stages they are the stages'.
    stages: one after another, each with what is other in it; none: the run is one stage.
    seed: of parameters and data.
    init_from: a model folder whose weights the run starts with; None: random ones.
    embed_codebook: the codes' embeddings begin as a projection of the video tokenizer's codebook instead of
        at random.
    trainable: "all"; "new_rows", the embedding's and the head's rows from the first code on, every other
        weight staying as init_from has it; or "lora", pairs of matrices (see LoraConfig) that the model
        folder has multiplied out.
    accumulate: in how many parts, one after another, a step reads its batch.
    compute_dtype: in which type activations and products are; parameters and their updates are float32.
    loss_chunk: positions of one device's share of a row whose logits exist at once.
    log_every: after how many steps a line of metrics is written.
    peak_flops: what one device can do a second, where its kind is not known (train/flops.py).
    wandb: a project of Weights & Biases that metrics go to as well; None: none.
    """

    name: str
    out: str
    data: DataConfig
    model: TransformerConfig | None = None
    steps: int = 0
    stages: tuple[StageConfig, ...] = ()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    health: HealthConfig = HealthConfig()
    seed: int = 0
    init_from: str | None = None
    embed_codebook: bool = False
    trainable: Literal["all", "new_rows", "lora"] = "all"
    lora: LoraConfig = LoraConfig()
    accumulate: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    loss_chunk: int = 512
    log_every: int = 50
    peak_flops: float | None = None
    wandb: str | None = None

    @property
    def transformer(self) -> TransformerConfig:
        """The model, of a config that says it (`train/initial_state.py` completes those that do not)."""
        assert self.model is not None, (
            "a config without a model is completed from init_from before it is used"
        )
        return self.model

    @property
    def num_stages(self) -> int:
        return max(1, len(self.stages))

    @property
    def total_steps(self) -> int:
        """Those of all stages."""
        return sum(stage.steps for stage in self.stages) if self.stages else self.steps

    def first_step(self, stage: int) -> int:
        """How many steps come before a stage."""
        return sum(one.steps for one in self.stages[:stage])

    def stage_at(self, step: int) -> int:
        """The stage that a run is in which has done `step` steps."""
        ends = (self.first_step(stage + 1) for stage in range(self.num_stages - 1))
        return sum(step >= end for end in ends)

    def of_stage(self, number: int) -> "TrainConfig":
        """The config of one stage by itself: what it or the nearest stage before it says, and the run where
        none of them says anything. A stage that changes the rotary positions may be longer than it was.
        """
        config = self
        for stage in self.stages[: number + 1]:
            config = _with_stage(config, stage)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, parts as objects of their own; a source also says of which `kind` it is."""
        settings: dict[str, Any] = _settings(self)
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`, for what was read from JSON. UserError that names what is unknown,
        missing or of another type; of sources only the kinds of data/sources/ are known.
        """
        known = copy.deepcopy(dict(values))
        for owner in (known.get("data"), *(known.get("stages") or ())):
            if not isinstance(owner, dict):
                raise UserError(f"a run's config has {str(owner)[:60]!r} where its data or a stage belongs")
            if isinstance(owner.get("sources"), list):
                owner["sources"] = [_source(told) for told in owner["sources"]]
        return cls(**fitted("a run's config", cls, known))

    def __post_init__(self) -> None:
        if not isinstance(self.data, DataConfig):
            kind = type(self.data).__name__
            refuse(self, [f"data is a {kind}, expected DataConfig(sources=({kind}(...),), ...)"])
        checks = Checks(self)
        checks.filled("name", "out")
        if self.stages:
            checks.that(
                self.steps == 0, f"steps is {self.steps}, expected none beside stages, which have theirs"
            )
        else:
            checks.at_least(1, "steps")
        checks.at_least(1, "loss_chunk", "log_every", "accumulate")
        checks.at_least(0, "seed")
        for name, known in (
            ("trainable", ("all", "new_rows", "lora")),
            ("compute_dtype", ("float32", "bfloat16")),
        ):
            value = getattr(self, name)
            checks.that(
                value in known, f"{name} is {value!r}, expected {', '.join(known[:-1])} or {known[-1]}"
            )
        checks.that(
            self.trainable == "all" or self.init_from is not None,
            f"trainable is {self.trainable!r} and init_from is none, expected the folder of the "
            "model that is trained on",
        )
        checks.that(
            self.model is not None or self.init_from is not None,
            "model and init_from are none, expected the shape of a model or the folder of one",
        )
        checks.that(
            self.data.text_model is not None or self.init_from is not None,
            "data.text_model and init_from are none, expected a text model or the folder of a model with one",
        )
        checks.positive("peak_flops")
        checks.problems += problems_of(self, "data", "optimizer", "mesh", "checkpoints")
        checks.problems += problems_of(self, "evaluation", "health", "lora")
        if self.stages:
            self._check_stages(checks)
        else:
            self._check_stage(checks)
        refuse(self, checks.problems)

    def _check_stage(self, checks: Checks) -> None:
        """What must fit together where there is one stage."""
        warmup = self.optimizer.warmup_steps
        checks.that(
            warmup <= self.steps,
            f"optimizer.warmup_steps is {warmup}, expected at most steps, which is {self.steps}",
        )
        if self.model is not None:
            most = self.model.max_length
            checks.that(
                self.data.length <= most,
                f"data.length is {self.data.length}, expected at most the model's max_length, "
                f"which is {most}",
            )
        checks.that(
            self.data.rows % self.accumulate == 0,
            f"data.rows is {self.data.rows}, expected a multiple of accumulate, which is {self.accumulate}",
        )

    def _check_stages(self, checks: Checks) -> None:
        """What is wrong with each stage, under its number."""
        for number, stage in enumerate(self.stages):
            checks.problems += [f"stages.{number}.{problem}" for problem in stage.problems()]
        if checks.problems:
            return
        for number in range(self.num_stages):
            try:
                self.of_stage(number)
            except UserError as error:
                said = str(error).removeprefix("TrainConfig: ").removesuffix("; correct the config")
                checks.problems.append(f"stages.{number}: {said}")


def _source(told: Any) -> SourceConfig:
    """A source out of its settings, which say of which kind it is."""
    settings = dict(told) if isinstance(told, dict) else {}
    name = settings.pop("kind", None)
    kind = SOURCE_KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UserError(f"no kind of source is called {name!r}; there are {', '.join(SOURCE_KINDS)}")
    return kind(**fitted(f"a source of kind {name}", kind, settings))


def _settings(value: Any) -> Any:
    """Dataclasses as dictionaries, also those in tuples."""
    if isinstance(value, tuple):
        return tuple(map(_settings, value))
    if not dataclasses.is_dataclass(value):
        return value
    kind = {"kind": type(value).__name__} if isinstance(value, SourceConfig) else {}
    return kind | {field.name: _settings(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _with_stage(config: TrainConfig, stage: StageConfig) -> TrainConfig:
    """The config with what a stage says in the place of what it said, and without stages."""

    def told(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(stage, name)) is not None}

    data = dataclasses.replace(config.data, **told("length", "rows", "sources"))
    model = config.model
    if model is not None and (rotary := told("rope_theta", "rope_scaling")):
        model = dataclasses.replace(model, **rotary, max_length=max(model.max_length, data.length))
    run = told("accumulate", "mesh", "optimizer")
    return dataclasses.replace(config, stages=(), steps=stage.steps, model=model, data=data, **run)
