"""`ringvision tokenize INPUT… --out DIR`: videos -> codes on disk; and `ringvision tokens inspect DIR`."""

import contextlib
import dataclasses
import sys
from typing import Annotated, Literal, get_args

from tyro.conf import Positional

from ringvision.cli.devices import start_jax
from ringvision.cli.options import LimitOptions, Tokenizer, VideoLimits, tokenizer_folder
from ringvision.cli.output import print_result
from ringvision.cli.parsing import COUNT, POSITIVE, WHOLE, Command, Json, choice, option, value_type

Engine = Literal["local", "ray"]


def read_part(text: str) -> tuple[int, int]:
    """`2/3` -> (2, 3), the second of three parts. ValueError for anything else."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(text)
    return int(number), int(parts)


def _read_part_text(text: str) -> str:
    read_part(text)
    return text


PART = value_type("I/N with I from 1 to N, such as 1/4", _read_part_text, "I/N")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenize(Command):
    inputs: Annotated[
        tuple[str, ...],
        Positional,
        option(
            "files, folders, globs, manifests (.csv, .jsonl, .parquet), tfds:NAME/SPLIT", "INPUT [INPUT ...]"
        ),
    ]
    out: Annotated[str, option("the folder to write, or to go on in", "DIR")]
    tokenizer: Tokenizer = None
    fps: Annotated[float, POSITIVE, option("frames to take of each second")] = 1.0
    size: Annotated[int | None, COUNT, option("a side of a frame", "PIXELS", default="the tokenizer's")] = (
        None
    )
    batch: Annotated[int, COUNT, option("frames that are encoded together")] = 64
    workers: Annotated[
        int | None, COUNT, option("videos decoded at once", default="one more than processors")
    ] = None
    devices: Annotated[
        int | None,
        COUNT,
        option("on a CPU, make N devices of it; batches are spread over all there are"),
    ] = None
    engine: Annotated[Engine, choice(*get_args(Engine)), option("this machine, or a Ray cluster")] = "local"
    ray_address: Annotated[
        str | None,
        option("of the cluster, such as auto or HEAD:6379", "ADDRESS", default="start one here"),
    ] = None
    format: Annotated[str, choice("array_record", "jsonl"), option("jsonl is LWM's")] = "array_record"
    shard_size: Annotated[int, COUNT, option("inputs to a file")] = 256
    variants: Annotated[
        int,
        WHOLE,
        option("altered copies of each video too (moved, zoomed, lit otherwise), for training on few"),
    ] = 0
    retry: Annotated[str | None, choice("failed"), option("try those again that failed before")] = None
    limit: Annotated[int | None, COUNT, option("only the first N inputs")] = None
    shard: Annotated[str, PART, option("only the I-th of N parts of the inputs, for N machines")] = "1/1"
    decoder: Annotated[
        str,
        choice("auto", "decord", "av"),
        option("what decodes", default="auto: av, steady on damaged videos"),
    ] = "auto"
    json: Json = False
    limits: VideoLimits = dataclasses.field(default_factory=LimitOptions)

    def run(self) -> int:
        start_jax(self.devices)
        from ringvision.tokenize import tokenize_videos
        from ringvision.tokenize.display import Display, Lines

        on_terminal = sys.stderr.isatty() and not self.json
        with Display(self.fps) if on_terminal else contextlib.nullcontext(Lines()) as progress:
            result = tokenize_videos(
                list(self.inputs),
                self.out,
                tokenizer_folder(self.tokenizer),
                fps=self.fps,
                size=self.size,
                batch=self.batch,
                workers=self.workers,
                engine=self.engine,
                ray_address=self.ray_address,
                format=self.format,
                shard_size=self.shard_size,
                variants=self.variants,
                limit=self.limit,
                decoder=self.decoder,
                part=read_part(self.shard),
                retry_failed=self.retry == "failed",
                limits=self.limits.make(),
                progress=progress,
            )
        counts = ", ".join(f"{result[name]} {name}" for name in ("done", "failed", "pending", "frames"))
        print_result(result, f"{counts}, {result['seconds']:.1f} s", as_json=self.json)
        return 1 if result["failed"] or result["pending"] else 0


@dataclasses.dataclass(frozen=True)
class InspectTokens(Command):
    folder: Annotated[str, Positional, option("what tokenize wrote", "DIR")]
    out: Annotated[str | None, option("a contact sheet, decoded back to pictures: .png or .html", "FILE")] = (
        None
    )
    tokenizer: Annotated[
        str | None, option("the one that made the codes", "NAME|DIR", default="the shipped one")
    ] = None
    videos: Annotated[int, COUNT, option("rows of the sheet")] = 12
    json: Json = False

    def run(self) -> int:
        start_jax()
        from ringvision.tokenize.inspect import describe, inspect

        tokenizer = tokenizer_folder(self.tokenizer) if self.out else None
        report = inspect(self.folder, out=self.out, tokenizer=tokenizer, videos=self.videos)
        print_result(report, "" if self.json else describe(report), as_json=self.json)
        return 0
