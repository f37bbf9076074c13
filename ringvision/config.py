"""What a training run is told: nested frozen dataclasses that check themselves, and the files of configs/
that hold one each.

    configs/NAME.py (`config = TrainConfig(...)`)  --load_config-->  config
    config  --apply_overrides(["--optimizer.lr", "1e-3", "--data", "tokens/"])-->  config

A part (`data`, `optimizer`, ...) lists what is wrong with it; TrainConfig gathers that of all parts and
raises it at once, under the names by which an override would change it.
"""

import dataclasses
import difflib
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from ringvision import shipped
from ringvision.checks import Checks
from ringvision.data.sources import VideoData
from ringvision.errors import UserError
from ringvision.mesh import parse_mesh
from ringvision.models.presets import TransformerConfig
from ringvision.models.vqgan import VQGANConfig
from ringvision.options import parse_options

Config = TypeVar("Config", bound="TrainConfig | TokenizerTrainConfig")


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
    """When the state of a run is saved: after each `every` steps, and after the last."""

    every: int = 1000

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(1, "every")
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


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run that trains the transformer on tokenized videos.

    name: what the model is called. out: the folder of the run.
    model: the transformer. data: what is read, and how it is packed into rows (data/sources/).
    steps: how many in all. seed: of parameters and data.
    init_from: a model folder whose weights the run starts with; None: random ones.
    embed_codebook: the codes' embeddings begin as a projection of the video tokenizer's codebook instead of
        at random.
    trainable: "all"; "new_rows", the embedding's and the head's rows from the first code on, every other
        weight staying as init_from has it; or "lora", pairs of matrices (see LoraConfig) that the model
        folder has multiplied out.
    loss_chunk: positions of one device's share of a row whose logits exist at once.
    log_every: after how many steps a line of metrics is written.
    """

    name: str
    out: str
    model: TransformerConfig
    data: VideoData
    steps: int
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    init_from: str | None = None
    embed_codebook: bool = False
    trainable: Literal["all", "new_rows", "lora"] = "all"
    lora: LoraConfig = LoraConfig()
    loss_chunk: int = 512
    log_every: int = 50

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, parts as objects of their own; data also says of which `kind` it is."""
        data = {"kind": type(self.data).__name__, **dataclasses.asdict(self.data)}
        return {**dataclasses.asdict(self), "data": data}

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.filled("name", "out")
        checks.at_least(1, "steps", "loss_chunk", "log_every")
        checks.at_least(0, "seed")
        checks.that(
            self.trainable in ("all", "new_rows", "lora"),
            f"trainable is {self.trainable!r}, expected all, new_rows or lora",
        )
        checks.that(
            self.trainable == "all" or self.init_from is not None,
            f"trainable is {self.trainable!r} and init_from is none, expected the folder of the "
            "model that is trained on",
        )
        checks.problems += _problems_of(self, "data", "optimizer", "mesh", "checkpoints")
        checks.problems += _problems_of(self, "evaluation", "lora")
        warmup = self.optimizer.warmup_steps
        checks.that(
            warmup <= self.steps,
            f"optimizer.warmup_steps is {warmup}, expected at most steps, which is {self.steps}",
        )
        most = self.model.max_length
        checks.that(
            self.data.length <= most,
            f"data.length is {self.data.length}, expected at most the model's max_length, which is {most}",
        )
        _raise(self, checks.problems)


@dataclasses.dataclass(frozen=True)
class TokenizerOptimizerConfig:
    """Adam for a video tokenizer: the rate warms up to `lr` over `warmup_steps` and falls along a cosine."""

    lr: float = 1e-3
    warmup_steps: int = 200

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.positive("lr")
        checks.at_least(0, "warmup_steps")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
    """What counts in the loss of a video tokenizer beside L1 + L2 of its pixels (train/tokenizer_step.py).

    codebook_weight: how much latents are pulled to their rows of the codebook.
    edge_weight: how much more a pixel at an edge counts.
    adversarial_start: the step at which the adversarial loss begins; None: never.
    adversarial_weight: how much it counts.
    """

    codebook_weight: float = 1.0
    edge_weight: float = 0.0
    adversarial_start: int | None = None
    adversarial_weight: float = 0.1

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(0, "codebook_weight", "edge_weight", "adversarial_weight", "adversarial_start")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class TokenizerTrainConfig:
    """A run that trains a video tokenizer (a VQGAN) on single frames.

    name: what the tokenizer is called. out: the folder of the run.
    data: an .npy of frames, uint8 [T, H, W, 3]. batch: frames of a step.
    log_every, eval_every: after how many steps; eval_every 0: never.
    """

    name: str
    out: str
    vqgan: VQGANConfig
    data: str
    steps: int
    batch: int = 32
    optimizer: TokenizerOptimizerConfig = TokenizerOptimizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.filled("name", "out", "data")
        checks.at_least(1, "steps", "batch", "log_every")
        checks.at_least(0, "seed", "eval_every")
        checks.problems += _problems_of(self, "optimizer", "loss", "checkpoints")
        warmup = self.optimizer.warmup_steps
        checks.that(
            warmup <= self.steps,
            f"optimizer.warmup_steps is {warmup}, expected at most steps, which is {self.steps}",
        )
        _raise(self, checks.problems)


def _problems_of(config: Any, *names: str) -> list[str]:
    """What the parts of these names say is wrong with them, each sentence beginning with a dotted name."""
    parts: Iterable[tuple[str, ConfigPart]] = ((name, getattr(config, name)) for name in names)
    return [f"{name}.{problem}" for name, part in parts for problem in part.problems()]


def _raise(config: Any, problems: Sequence[str]) -> None:
    if problems:
        raise UserError(f"{type(config).__name__}: {'; '.join(problems)}; correct the config")


# ------------------------------------------------------------------------------------ files and overrides


RENAMED: dict[str, dict[str, str]] = {
    "TrainConfig": {
        "optimizer": "optimizer.kind",
        **{
            name: f"optimizer.{name}"
            for name in (
                "lr", "min-lr", "warmup-steps", "weight-decay", "clip-norm", "b1", "b2", "muon-lr", "ema",
            )
        },
        **{
            name: f"data.{name}"
            for name in (
                "text-model", "tokenizer", "length", "rows", "turns-min", "turns-max", "vision-weight",
                "question-weight", "favour", "grow-from", "grow-steps",
            )
        },
        "checkpoint-every": "checkpoints.every",
        "eval-every": "evaluation.every",
        "eval-data": "evaluation.folder",
        "eval-examples": "evaluation.examples",
        "lora-rank": "lora.rank",
        "lora-alpha": "lora.alpha",
    },
    "TokenizerTrainConfig": {
        "lr": "optimizer.lr",
        "warmup-steps": "optimizer.warmup-steps",
        "codebook-weight": "loss.codebook-weight",
        "edge-weight": "loss.edge-weight",
        "adversarial-start": "loss.adversarial-start",
        "adversarial-weight": "loss.adversarial-weight",
        "checkpoint-every": "checkpoints.every",
    },
}  # fmt: skip
"""What options were called while configs were flat, and what they are called now."""


def load_config(path_or_name: str) -> Any:
    """Run a Python file and take its `config`: a path, or the bare name of a file in configs/ (`demo` for
    configs/demo.py). UserError where there is none, or it does not hold one.
    """
    path = Path(path_or_name)
    if not path.is_file():
        path = _shipped_config(path_or_name)
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(config, (TrainConfig, TokenizerTrainConfig)):
        raise UserError(
            f"{path} sets no `config`; expected `config = TrainConfig(...)` or `config = "
            "TokenizerTrainConfig(...)`"
        )
    return config


def _shipped_config(name: str) -> Path:
    folder = shipped.folder("configs")
    path = folder / f"{name.removesuffix('.py')}.py"
    if path.is_file():
        return path
    names = sorted(file.stem for file in folder.glob("*.py"))
    close = difflib.get_close_matches(name, names, n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"shipped are {', '.join(names) or 'none'}; or give the path of a Python file"
    )
    raise UserError(f"no config {name!r}: {hint}")


def apply_overrides(config: Config, args: Sequence[str], prog: str = "ringvision train CONFIG") -> Config:
    """The config with `--optimizer.lr 1e-3 --model.num-layers 4` applied: typed, checked, and a misspelt name
    answered with the nearest one.

    `--data DIR` is short for `--data.folder DIR`, `--mesh context=4,data=2` for all axes of the mesh.
    `--help` prints every name with its type and value, and exits. UserError for anything that is not an
    option of this config; an option of before configs were nested is answered with its new name.
    """
    renamed: Mapping[str, str] = RENAMED[type(config).__name__]
    if isinstance(config, TrainConfig):
        args = _written_out(args)
    return parse_options(type(config), args, prog=prog, default=config, renamed=renamed)


def _written_out(args: Sequence[str]) -> list[str]:
    """The arguments with the short forms `--data DIR` and `--mesh AXES` as the options that they stand
    for.
    """
    written: list[str] = []
    left = list(args)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name not in ("--data", "--mesh"):
            written.append(name + equals + value)
            continue
        if not equals:
            if not left:
                wanted = {"--data": "DIR", "--mesh": "context=4,data=2"}[name]
                raise UserError(f"{name} is given nothing; write {name} {wanted}")
            value = left.pop(0)
        if name == "--data":
            written += ["--data.folder", value]
        else:
            mesh = MeshConfig(**parse_mesh(value))
            written += [part for axis, size in vars(mesh).items() for part in (f"--mesh.{axis}", str(size))]
    return written
