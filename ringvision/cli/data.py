"""`ringvision data inspect CONFIG`: what a run will read, before it runs."""

import dataclasses
from typing import Annotated

from ringvision.cli.devices import start_jax
from ringvision.cli.options import ConfigFile, Overrides
from ringvision.cli.output import print_result
from ringvision.cli.parsing import COUNT, Command, Json, option, value_type
from ringvision.errors import UserError


def _read_stage(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


STAGE = value_type("a whole number from 0 upward", _read_stage)


@dataclasses.dataclass(frozen=True)
class InspectData(Command):
    config: ConfigFile
    overrides: Overrides = ()
    stage: Annotated[int, STAGE, option("which stage of the run, from 0")] = 0
    rows: Annotated[int, COUNT, option("rows to fill, the first that the run would get")] = 200
    examples: Annotated[int, COUNT, option("documents of each source to show in words")] = 2
    out: Annotated[
        str | None, option("a contact sheet of their frames, decoded to pictures: .png or .html", "FILE")
    ] = None
    json: Json = False

    def run(self) -> int:
        start_jax()
        from ringvision.config import TrainConfig, apply_overrides, load_config
        from ringvision.train.inspect_data import describe, inspect_data

        config = load_config(self.config)
        if not isinstance(config, TrainConfig):
            raise UserError(
                f"{self.config} holds a {type(config).__name__}, whose data is one file; give a config that "
                "trains a transformer"
            )
        config = apply_overrides(config, self.overrides, prog=f"ringvision data inspect {self.config}")
        report = inspect_data(config, stage=self.stage, rows=self.rows, examples=self.examples, out=self.out)
        print_result(report, "" if self.json else describe(report), as_json=self.json)
        return 0
