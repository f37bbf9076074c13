"""`ringvision evaluate world`, `needle` and `tokenizer`, and `ringvision reconstruct`: scores."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions, start_jax
from ringvision.cli.evaluate_options import NUMBERS, ResultFolder, command_line, numbers
from ringvision.cli.options import CacheDtype, FramesASecond, Model, Tokenizer, tokenizer_folder
from ringvision.cli.output import plain, print_result, say, table
from ringvision.cli.parsing import COUNT, POSITIVE, WHOLE, Command, Json, choice, option
from ringvision.errors import UserError

FramesTaken = Annotated[float, POSITIVE, option("frames to take of each second")]


@dataclasses.dataclass(frozen=True)
class EvaluateWorld(Command):
    model: Model = None
    length: Annotated[int | None, COUNT, option("about long videos, of so many seconds each", "SECONDS")] = (
        None
    )
    examples: Annotated[
        int | None, COUNT, option("how many questions", default="800, about long videos 240")
    ] = None
    seed: Annotated[int, WHOLE, option("which held-out scenes", "S")] = 0
    fps: FramesASecond = 1.0
    out: ResultFolder = None
    cache_dtype: CacheDtype = None
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        if self.out is not None and self.length is None:
            raise UserError("--out is for long videos: give --length as well, or leave it out")
        mesh = self.mesh.make(by_core=True)
        from ringvision.evaluate.long_world import evaluate_long_world
        from ringvision.evaluate.world import evaluate_world
        from ringvision.infer.assistant import load

        assistant = load(self.model, mesh=mesh, dtype=self.mesh.dtype, cache_dtype=self.cache_dtype)
        if self.length is None:
            result = evaluate_world(assistant, examples=self.examples or 800, seed=self.seed, fps=self.fps)
        else:
            result = evaluate_long_world(
                assistant,
                self.length,
                examples=self.examples or 240,
                seed=self.seed,
                fps=self.fps,
                out=self.out,
                command=command_line("world", self),
                progress=sys.stderr,
            )
        print_result(result, _score_table(result), as_json=self.json)
        return 0


@dataclasses.dataclass(frozen=True)
class EvaluateNeedle(Command):
    model: Model = None
    mode: Annotated[
        str,
        choice("video", "text"),
        option("video: a card in a video; text: a number in a text, of a text model (--model)"),
    ] = "video"
    lengths: Annotated[
        str | None,
        NUMBERS,
        option(
            "in seconds of video, or tokens of text", default="60,240,900,1800,3600, of text 1000,2000,4000"
        ),
    ] = None
    depths: Annotated[
        int, COUNT, option("places of the needle, evenly from the first second or sentence to the last")
    ] = 5
    seeds: Annotated[int, COUNT, option("videos or texts of each length and depth")] = 20
    seed: Annotated[int, WHOLE, option("which held-out scenes, or texts", "S")] = 0
    fps: FramesASecond = 1.0
    no_absent: Annotated[bool, option("do not ask about videos without a card")] = False
    cache_dtype: CacheDtype = None
    out: ResultFolder = None
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        result, text = self._video() if self.mode == "video" else self._text()
        print_result(result, text, as_json=self.json)
        return 0

    def _video(self) -> tuple[Mapping[str, Any], str]:
        from ringvision.evaluate.needle import LENGTHS, NeedleSettings, evaluate_needle, needle_text

        settings = NeedleSettings(
            lengths=numbers(self.lengths, LENGTHS),
            depths=self.depths,
            seeds=self.seeds,
            fps=self.fps,
            absent=not self.no_absent,
            seed=self.seed,
        )
        mesh = self.mesh.make(by_core=True)
        from ringvision.infer.assistant import load

        assistant = load(self.model, mesh=mesh, dtype=self.mesh.dtype, cache_dtype=self.cache_dtype)
        result = evaluate_needle(
            assistant, settings, out=self.out, command=command_line("needle", self), progress=sys.stderr
        )
        return result, needle_text(result)

    def _text(self) -> tuple[Mapping[str, Any], str]:
        from ringvision.evaluate.text_needle import (
            ANSWER_TOKENS,
            LENGTHS,
            TextNeedleSettings,
            evaluate_text_needle,
            text_needle_text,
        )

        if self.model is None:
            raise UserError("--mode text asks a text model: give its folder as --model")
        settings = TextNeedleSettings(numbers(self.lengths, LENGTHS), self.depths, self.seeds, self.seed)
        mesh = self.mesh.make()
        from ringvision.infer.chat import load_chat

        chat = load_chat(
            self.model,
            mesh,
            max_tokens=ANSWER_TOKENS,
            dtype=self.mesh.dtype,
            cache_dtype=self.cache_dtype,
        )
        result = evaluate_text_needle(
            chat, settings, out=self.out, command=command_line("needle", self), progress=sys.stderr
        )
        return result, text_needle_text(result)


def _score_table(result: Mapping[str, Any]) -> str:
    """A line for each kind of question, and one for all."""
    lines = [f"{'kind':20} {'accuracy':>8} {'chance':>8} {'blind':>8} {'examples':>8}"]
    overall = {name: result.get(name, math.nan) for name in ("chance", "blind", "examples")}
    overall["accuracy"] = result["overall"]
    for kind, score in [*result["kinds"].items(), ("overall", overall)]:
        lines.append(
            f"{kind:20} {score['accuracy']:8.1%} {score['chance']:8.1%} {score['blind']:8.1%} "
            f"{score['examples']:8}"
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateTokenizer(Command):
    videos: Annotated[
        tuple[str, ...],
        option("as for tokenize: files, folders, globs, manifests", "INPUT [INPUT ...]"),
    ]
    tokenizer: Tokenizer = None
    fps: FramesTaken = 1.0
    limit: Annotated[int | None, COUNT, option("only the first N videos")] = None
    out: Annotated[
        str | None,
        option("a video of all of them, original and reconstruction side by side", "OUT.mp4"),
    ] = None
    inception: Annotated[
        str | None, option("weights of the Inception network (safetensors): rFID as well", "FILE")
    ] = None
    lpips: Annotated[
        str | None,
        option("weights of VGG-16 and the LPIPS heads (safetensors): LPIPS as well", "FILE"),
    ] = None
    json: Json = False

    def run(self) -> int:
        start_jax()
        from ringvision.evaluate.tokenizer import evaluate_tokenizer
        from ringvision.tokenize.inputs import read_inputs
        from ringvision.video_tokenizer import load_video_tokenizer

        videos = [source.path for source in read_inputs(list(self.videos)) if source.path]
        result = evaluate_tokenizer(
            videos,
            tokenizer=load_video_tokenizer(tokenizer_folder(self.tokenizer)),
            fps=self.fps,
            limit=self.limit,
            out=self.out,
            inception=self.inception,
            lpips=self.lpips,
            progress=sys.stderr if sys.stderr.isatty() else None,
        )
        for failure in result["failed"]:
            say(f"{failure['source']}: {failure['kind']}: {failure['message']}")
        shown = {
            name: value
            for name, value in plain(result).items()
            if value is not None and not isinstance(value, list)
        }
        print_result(result, table(shown), as_json=self.json)
        return 1 if result["failed"] else 0


@dataclasses.dataclass(frozen=True)
class Reconstruct(Command):
    video: Annotated[str, Positional, option("a video file", "VIDEO")]
    out: Annotated[str, Positional, option("the .mp4 to write", "OUT")]
    tokenizer: Tokenizer = None
    fps: FramesTaken = 1.0
    json: Json = False

    def run(self) -> int:
        start_jax()
        from ringvision.evaluate.reconstruction import reconstruct

        tokenizer = tokenizer_folder(self.tokenizer)
        result = reconstruct(self.video, self.out, tokenizer=tokenizer, fps=self.fps)
        print_result(result, table(result), as_json=self.json)
        return 0
