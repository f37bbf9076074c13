"""`ringvision evaluate world`, `ringvision evaluate tokenizer` and `ringvision reconstruct`: scores."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions, start_jax
from ringvision.cli.options import CacheDtype, FramesASecond, Model, Tokenizer, tokenizer_folder
from ringvision.cli.output import plain, print_result, say, table
from ringvision.cli.parsing import COUNT, POSITIVE, WHOLE, Command, Json, option

FramesTaken = Annotated[float, POSITIVE, option("frames to take of each second")]


@dataclasses.dataclass(frozen=True)
class EvaluateWorld(Command):
    model: Model = None
    examples: Annotated[int, COUNT, option("how many questions")] = 800
    seed: Annotated[int, WHOLE, option("which held-out scenes", "S")] = 0
    fps: FramesASecond = 1.0
    cache_dtype: CacheDtype = None
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        mesh = self.mesh.make()
        from ringvision.evaluate.world import evaluate_world
        from ringvision.infer.assistant import load

        assistant = load(self.model, mesh=mesh, dtype=self.mesh.dtype, cache_dtype=self.cache_dtype)
        result = evaluate_world(assistant, examples=self.examples, seed=self.seed, fps=self.fps)
        print_result(result, _score_table(result), as_json=self.json)
        return 0


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
