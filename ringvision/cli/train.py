"""`ringvision train CONFIG` and `ringvision train-tokenizer CONFIG`, with overrides of fields."""

import dataclasses
from typing import Annotated, Any, ClassVar

from ringvision.cli.devices import CpuDevices, Processes, ProcessOptions, start_jax
from ringvision.cli.options import ConfigFile, Overrides
from ringvision.cli.parsing import Command, option
from ringvision.errors import UserError

COMMANDS = {"TrainConfig": "train", "TokenizerTrainConfig": "train-tokenizer"}


@dataclasses.dataclass(frozen=True)
class Train(Command):
    config: ConfigFile
    overrides: Overrides = ()
    devices: CpuDevices = None
    allow_changes: Annotated[
        bool, option("go on with a run although the config would have it learn something else")
    ] = False
    processes: Processes = dataclasses.field(default_factory=ProcessOptions)

    config_kind: ClassVar[str] = "TrainConfig"

    def run(self) -> int:
        from ringvision.train.memory import keep_freed_memory

        keep_freed_memory()
        self.processes.start()
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

        train(config, allow_changes=self.allow_changes)


@dataclasses.dataclass(frozen=True)
class TrainTokenizer(Train):
    config_kind: ClassVar[str] = "TokenizerTrainConfig"

    def _train(self, config: Any) -> None:
        from ringvision import distributed
        from ringvision.train.tokenizer import train_tokenizer

        if (count := distributed.process_count()) > 1:
            raise UserError(
                f"train-tokenizer was started on {count} processes, and computes in one; start it once, and "
                "only `ringvision train` on several"
            )
        train_tokenizer(config)
