"""`ringvision train CONFIG` and `ringvision train-tokenizer CONFIG`, with overrides of fields."""

import dataclasses
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional

from ringvision.cli.devices import CpuDevices, keep_freed_memory, start_jax
from ringvision.cli.parsing import REST, Command, option
from ringvision.errors import UserError

COMMANDS = {"TrainConfig": "train", "TokenizerTrainConfig": "train-tokenizer"}


@dataclasses.dataclass(frozen=True)
class Train(Command):
    config: Annotated[
        str,
        Positional,
        option("a Python file that sets `config`, or the name of one in configs/", "CONFIG"),
    ]
    overrides: Annotated[
        tuple[str, ...],
        Positional,
        REST,
        option(
            "fields of the config and their values, such as --optimizer.lr 1e-3; CONFIG --help shows all",
            "OVERRIDE ...",
        ),
    ] = ()
    devices: CpuDevices = None

    config_kind: ClassVar[str] = "TrainConfig"

    def run(self) -> int:
        keep_freed_memory()
        start_jax(self.devices)
        from ringvision.config import apply_overrides, load_config

        config = load_config(self.config)
        given = type(config).__name__
        if given != self.config_kind:
            raise UserError(
                f"{self.config} holds a {given}, expected a {self.config_kind}; use "
                f"`ringvision {COMMANDS[given]} {self.config}`"
            )
        prog = f"ringvision {COMMANDS[self.config_kind]} {self.config}"
        self._train(apply_overrides(config, self.overrides, prog=prog))
        return 0

    def _train(self, config: Any) -> None:
        from ringvision.train.loop import train

        train(config)


@dataclasses.dataclass(frozen=True)
class TrainTokenizer(Train):
    config_kind: ClassVar[str] = "TokenizerTrainConfig"

    def _train(self, config: Any) -> None:
        from ringvision.train.tokenizer import train_tokenizer

        train_tokenizer(config)
