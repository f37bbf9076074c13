"""The files of configs/, which hold one config each, and what the command line changes in one.

configs/NAME.py (`config = TrainConfig(...)`)  --load_config-->  config
config  --apply_overrides(["--optimizer.lr", "1e-3", "--data", "tokens/"])-->  config
"""

import difflib
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ringvision import shipped
from ringvision.config.parts import MeshConfig
from ringvision.config.tokenizer import TokenizerTrainConfig
from ringvision.config.train import TrainConfig
from ringvision.data.sources import DataConfig
from ringvision.errors import UserError
from ringvision.mesh import parse_mesh
from ringvision.options import parse_options

Config = TypeVar("Config", bound="TrainConfig | TokenizerTrainConfig")


RENAMED: dict[str, dict[str, str]] = {
    "TrainConfig": {
        "optimizer": "optimizer.kind",
        **{
            name: f"optimizer.{name}"
            for name in (
                "lr", "min-lr", "warmup-steps", "weight-decay", "clip-norm", "b1", "b2", "muon-lr", "ema",
            )
        },
        **{name: f"data.{name}" for name in ("text-model", "tokenizer", "length", "rows")},
        **{
            old: f"data.sources.0.{name}"
            for name in (
                "turns-min", "turns-max", "vision-weight", "question-weight", "favour", "grow-from",
                "grow-steps",
            )
            for old in (name, f"data.{name}")
        },
        "data.folder": "data.sources.0.folder",
        "data.caption-question": "data.sources.0.caption-question",
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
"""What options were called while configs were flat, or had one source, and what they are called now."""


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

    `--data DIR` is short for the folder (or path) of the first source that has one, `--mesh
    context=4,data=2` for all axes of the mesh. `--help` prints every name with its type and value, and exits.
    UserError for anything that is not an option of this config; one that was renamed is answered with its new
    name.
    """
    renamed: Mapping[str, str] = RENAMED[type(config).__name__]
    if isinstance(config, TrainConfig):
        args = _written_out(args, config.data)
    return parse_options(type(config), args, prog=prog, default=config, renamed=renamed)


def _written_out(args: Sequence[str], data: DataConfig) -> list[str]:
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
            written += [f"--data.{_place(data)}", value]
        else:
            mesh = MeshConfig(**parse_mesh(value))
            written += [part for axis, size in vars(mesh).items() for part in (f"--mesh.{axis}", str(size))]
    return written


def _place(data: DataConfig) -> str:
    """Which option says where the first source lies that lies anywhere: "sources.0.folder"."""
    for number, source in enumerate(data.sources):
        for name in ("folder", "path"):
            if hasattr(source, name):
                return f"sources.{number}.{name}"
    raise UserError("--data DIR: no source of this config has a folder; see --help for what its sources take")
