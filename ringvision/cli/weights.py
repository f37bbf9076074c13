"""`ringvision import SOURCE DEST` and `ringvision export MODEL DEST`: weights from other programs, and for
them.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional

from ringvision.cli.devices import start_jax
from ringvision.cli.options import tokenizer_folder
from ringvision.cli.output import counted, print_result, progress_line, say
from ringvision.cli.parsing import WHOLE, Command, Json, choice, option
from ringvision.errors import UserError

Format = Literal["hf", "lwm"]
STORED_TYPE = choice("float32", "bfloat16", "float16")
Dest = Annotated[str, Positional, option("the folder to write", "DEST")]


@dataclasses.dataclass(frozen=True)
class Import(Command):
    source: Annotated[str, Positional, option("a file, a folder, hf:OWNER/NAME, or smollm2", "SOURCE")]
    dest: Dest
    config: Annotated[
        str | None,
        option("a config.json, or taming's .yaml, to be read in the place of the one beside", "FILE"),
    ] = None
    dtype: Annotated[
        str | None, STORED_TYPE, option("the type that weights are stored in", default="as they come")
    ] = None
    tokenizer: Annotated[
        str | None,
        option(
            "a model's own video tokenizer, such as LWM's, imported before: it is copied into DEST",
            "NAME|DIR",
        ),
    ] = None
    dry_run: Annotated[bool, option("print the table of names and what is wrong; write nothing")] = False
    add_vision: Annotated[
        str | None,
        option("SOURCE is a text model: add rows for this video tokenizer's codes to it", "NAME|DIR"),
    ] = None
    seed: Annotated[int, WHOLE, option("of the noise in rows that --add-vision adds")] = 0
    json: Json = False

    def run(self) -> int:
        start_jax()
        if self.add_vision:
            result = self._add_vision(self.add_vision)
            text = f"{result['dest']}: {result['rows']} rows, kind {result['kind']}"
        else:
            result = self._import()
            text = (
                f"{result['family']}: {result['tensors']} tensors, {result['parameters']:,} "
                f"parameters -> {result['dest'] or 'nowhere'}"
            )
        print_result(result, text, as_json=self.json)
        return 0

    def _add_vision(self, tokenizer: str) -> dict[str, Any]:
        from ringvision.weights.grow import add_vision

        if self.tokenizer:
            raise UserError(
                "--tokenizer cannot go with --add-vision, which names the video tokenizer itself; "
                "leave it out"
            )
        if self.dry_run:
            raise UserError("--dry-run cannot go with --add-vision; try the import of the text model alone")
        return add_vision(
            self.source,
            tokenizer_folder(tokenizer),
            self.dest,
            seed=self.seed,
            config=self.config,
            dtype=self.dtype,
            say=say,
            progress=progress_line(),
        )

    def _import(self) -> dict[str, Any]:
        from ringvision.weights.importing import import_weights

        return import_weights(
            self.source,
            self.dest,
            config=self.config,
            dtype=self.dtype,
            tokenizer=tokenizer_folder(self.tokenizer) if self.tokenizer else None,
            dry_run=self.dry_run,
            say=say,
            progress=progress_line(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    model: Annotated[str, Positional, option("a model folder, a video tokenizer's, or a run's", "MODEL")]
    dest: Dest
    format: Annotated[
        Format | None,
        choice(*get_args(Format)),
        option("hf: for transformers or diffusers; lwm: for LWM", default="of a run: a model folder"),
    ] = None
    dtype: Annotated[
        str | None, STORED_TYPE, option("the type of the weights", default="as it is stored")
    ] = None
    json: Json = False

    def run(self) -> int:
        start_jax()
        if self.format is None:
            return self._export_run()
        from ringvision.weights.exporting import export_weights

        result = export_weights(
            self.model, self.dest, self.format, dtype=self.dtype, progress=progress_line()
        )
        text = f"{result['dest']}: {counted(result['tensors'], 'tensor')}, format {result['format']}"
        print_result(result, text, as_json=self.json)
        return 0

    def _export_run(self) -> int:
        from ringvision.train.export_run import export_run, is_run

        if not is_run(Path(self.model)):
            raise UserError(
                f"{self.model} is no run of `ringvision train`, so say what it is exported for: "
                "--format hf or lwm"
            )
        if self.dtype:
            raise UserError("--dtype goes with --format; the model of a run is written as it is trained")
        result = export_run(Path(self.model), Path(self.dest))
        for sentence in result["skipped"]:
            say(sentence)
        print_result(result, f"{result['dest']}: the model after step {result['step']}", as_json=self.json)
        return 0
