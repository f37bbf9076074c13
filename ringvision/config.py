"""What a training run is told: frozen dataclasses that check themselves, and the files of configs/ that hold
one each.

configs/NAME.py (`config = TrainConfig(...)`)  --load_config-->  config  --apply_overrides(["--lr",
"1e-3"])-->  config
"""

import dataclasses
import difflib
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from ringvision import shipped
from ringvision.errors import UserError
from ringvision.mesh import parse_mesh
from ringvision.models.presets import TransformerConfig
from ringvision.models.vqgan import VQGANConfig
from ringvision.options import parse_options

Config = TypeVar("Config", bound="TrainConfig | TokenizerTrainConfig")


@dataclasses.dataclass(frozen=True)
class TokenizerTrainConfig:
    """A run that trains a video tokenizer (a VQGAN) on single frames.

    name: what the tokenizer is called; out: the folder of the run. data: an .npy of frames, uint8 [T, H, W,
    3]. The adversarial loss begins at step `adversarial_start` (None: never). `*_every` counts steps; 0 turns
    evaluation off.
    """

    name: str
    out: str
    vqgan: VQGANConfig
    data: str
    steps: int
    batch: int = 32
    lr: float = 1e-3
    warmup_steps: int = 200
    adversarial_start: int | None = None
    adversarial_weight: float = 0.1
    codebook_weight: float = 1.0
    edge_weight: float = 0.0
    seed: int = 0
    checkpoint_every: int = 1000
    log_every: int = 50
    eval_every: int = 1000

    def __post_init__(self) -> None:
        check = _Checks(self)
        check.filled("name", "out", "data")
        check.at_least(1, "steps", "batch", "checkpoint_every", "log_every")
        check.at_least(
            0, "warmup_steps", "adversarial_weight", "codebook_weight", "edge_weight", "seed", "eval_every"
        )
        check.at_least(0, *(["adversarial_start"] if self.adversarial_start is not None else []))
        check.that(self.lr > 0, f"lr is {self.lr}, expected more than 0")
        check.that(
            self.warmup_steps <= self.steps,
            f"warmup_steps is {self.warmup_steps}, expected at most steps, which is {self.steps}",
        )
        check.report()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run that trains the transformer on a folder of tokenized videos.

    data: the folder of code shards. text_model: the sentencepiece file. tokenizer: the video tokenizer that
    made the codes (a name under tokenizers/ or a folder). A batch is `rows` rows of `length` tokens. The rate
    warms up to `lr` over `warmup_steps` and falls to `min_lr` along a cosine. mesh: "context=4,data=2"; what
    is not named is 1, and no mesh at all puts every device on `context`. optimizer: "adamw", or "muon", which
    takes steps of `muon_lr` (scheduled like lr) for the layers' matrices and AdamW for the rest. init_from: a
    model folder whose weights the run starts with. `*_every` counts steps; 0 turns evaluation off. eval_data:
    a folder of held-out shards, on which `eval_examples` questions are marked. About each video `turns_min`
    to `turns_max` questions are asked. ema: how much of its past a moving average of the weights keeps
    (0.999; 0: no average); what is averaged is what is exported. favour: kinds of questions that are asked
    before all others. vision_weight, question_weight: how much predicting a video's codes, and each question,
    counts beside an answer. grow_from, grow_steps: at first only pieces of at most `grow_from` frames of a
    video are shown, and longer ones from step to step until after `grow_steps` videos are whole (0: whole
    from the start). embed_codebook: the codes' embeddings begin as a projection of the video tokenizer's
    codebook instead of at random. trainable: "all"; "new_rows", the embedding's and the head's rows from the
    first code on, every other weight staying as init_from has it; or "lora", pairs of rank `lora_rank` beside
    the layers' matrices, weighed by `lora_alpha` / `lora_rank`, which the model folder has multiplied out.
    """

    name: str
    out: str
    model: TransformerConfig
    data: str
    text_model: str
    tokenizer: str
    length: int
    rows: int
    steps: int
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup_steps: int = 200
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    optimizer: str = "adamw"
    muon_lr: float = 0.02
    loss_chunk: int = 512
    vision_weight: float = 0.0
    question_weight: float = 0.0
    grow_from: int = 0
    grow_steps: int = 0
    mesh: str = ""
    seed: int = 0
    checkpoint_every: int = 1000
    log_every: int = 50
    eval_every: int = 1000
    init_from: str | None = None
    eval_data: str | None = None
    eval_examples: int = 256
    turns_min: int = 1
    turns_max: int = 8
    favour: tuple[str, ...] = ()
    ema: float = 0.0
    embed_codebook: bool = False
    trainable: Literal["all", "new_rows", "lora"] = "all"
    lora_rank: int = 16
    lora_alpha: float = 32.0

    def __post_init__(self) -> None:
        check = _Checks(self)
        check.filled("name", "out", "data", "text_model", "tokenizer")
        check.at_least(1, "length", "rows", "steps", "loss_chunk", "checkpoint_every", "log_every")
        check.at_least(
            0,
            "min_lr",
            "warmup_steps",
            "weight_decay",
            "vision_weight",
            "question_weight",
            "seed",
            "eval_every",
        )
        check.at_least(0, "grow_from", "grow_steps")
        check.at_least(1, "eval_examples", "turns_min")
        check.that(
            self.turns_max >= self.turns_min,
            f"turns_max is {self.turns_max}, expected at least turns_min: {self.turns_min}",
        )
        check.that(0 <= self.ema < 1, f"ema is {self.ema}, expected from 0 to below 1")
        check.that(
            self.optimizer in ("adamw", "muon"), f"optimizer is {self.optimizer!r}, expected adamw or muon"
        )
        check.that(
            self.trainable in ("all", "new_rows", "lora"),
            f"trainable is {self.trainable!r}, expected all, new_rows or lora",
        )
        given = self.trainable == "all" or self.init_from is not None
        check.that(
            given,
            f"trainable is {self.trainable!r} and init_from is none, expected the folder of the "
            "model that is trained on",
        )
        check.at_least(1, "lora_rank")
        check.that(self.lora_alpha > 0, f"lora_alpha is {self.lora_alpha}, expected more than 0")
        check.that(self.muon_lr > 0, f"muon_lr is {self.muon_lr}, expected more than 0")
        check.that(self.lr > 0, f"lr is {self.lr}, expected more than 0")
        check.that(
            self.min_lr <= self.lr, f"min_lr is {self.min_lr}, expected at most lr, which is {self.lr}"
        )
        check.that(self.clip_norm > 0, f"clip_norm is {self.clip_norm}, expected more than 0")
        check.that(
            0 <= self.b1 < 1 and 0 <= self.b2 < 1,
            f"b1 and b2 are {self.b1} and {self.b2}, expected from 0 to below 1",
        )
        check.that(
            self.warmup_steps <= self.steps,
            f"warmup_steps is {self.warmup_steps}, expected at most steps, which is {self.steps}",
        )
        most = self.model.max_length
        check.that(
            self.length <= most,
            f"length is {self.length}, expected at most the model's max_length, which is {most}",
        )
        check.report()
        if self.mesh:
            parse_mesh(self.mesh)


class _Checks:
    """Collects everything that is wrong with a config, then raises it together."""

    def __init__(self, config: Any):
        self.config = config
        self.wrong = list[str]()

    def that(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def filled(self, *names: str) -> None:
        for name in names:
            value = getattr(self.config, name)
            self.that(isinstance(value, str) and bool(value), f"{name} is {value!r}, expected some text")

    def at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self.config, name)
            self.that(value >= least, f"{name} is {value}, expected at least {least}")

    def report(self) -> None:
        if self.wrong:
            raise UserError(f"{type(self.config).__name__}: {'; '.join(self.wrong)}; correct the config")


def load_config(path_or_name: str) -> Any:
    """Run a Python file and take its `config`: a path, or the bare name of a file in configs/ (`demo` for
    configs/demo.py).
    """
    path = Path(path_or_name)
    if not path.is_file():
        place = shipped.folder("configs")
        path = place / f"{path_or_name.removesuffix('.py')}.py"
        if not path.is_file():
            names = sorted(file.stem for file in place.glob("*.py"))
            close = difflib.get_close_matches(path_or_name, names, n=1)
            hint = (
                f"did you mean {close[0]}?"
                if close
                else f"shipped are {', '.join(names) or 'none'}; or give the path of a Python file"
            )
            raise UserError(f"no config {path_or_name!r}: {hint}")
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


def apply_overrides(config: Config, args: Sequence[str], prog: str = "ringvision train CONFIG") -> Config:
    """The config with `--lr 1e-3 --model.num-layers 4` applied: typed, checked, and a misspelt name answered
    with the nearest one.

    `--help` prints every name with its type and value, and exits. UserError for anything that is not an
    option of this config.
    """
    return parse_options(type(config), args, prog=prog, default=config)
