"""`ringvision generate PROMPT --out FILE`: a picture or a video from a text, or what follows on a video."""

import dataclasses
from typing import Annotated

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions
from ringvision.cli.options import Model, SamplerOptions, Sampling
from ringvision.cli.output import counted, print_result, progress_line
from ringvision.cli.parsing import COUNT, NUMBER, POSITIVE, Command, Json, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(Command):
    prompt: Annotated[
        str | None,
        Positional,
        option("what is to be seen, for models that generate from text", "[PROMPT]"),
    ] = None
    out: Annotated[str, option(".png or .mp4", "FILE")]
    frames: Annotated[int, COUNT, option("how many")] = 1
    video: Annotated[str | None, option("a video that the frames go on from", "VIDEO")] = None
    guidance: Annotated[
        float | None,
        NUMBER,
        option(
            "how closely the prompt is followed; 1: no guidance", "G", default="the model's own, mostly 5"
        ),
    ] = None
    video_guidance: Annotated[
        float | None,
        NUMBER,
        option(
            "the same for frames after the first",
            "G",
            default="as --guidance; 1 where a model is asked for them in other words, as LWM is",
        ),
    ] = None
    candidates: Annotated[
        int | None,
        COUNT,
        option(
            "how many drafts a frame is chosen from, for models that can judge them",
            default="the model's own",
        ),
    ] = None
    fps: Annotated[
        float | None, POSITIVE, option("frames a second of the video", default="the model's own")
    ] = None
    model: Model = None
    tokenizer: Annotated[
        str | None,
        option("what turns codes into pictures", "NAME|DIR", default="the one that the model names"),
    ] = None
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)
    sampler: Sampling = dataclasses.field(default_factory=lambda: SamplerOptions(temperature=1.0))

    def run(self) -> int:
        mesh = self.mesh.make()
        from ringvision.infer.image_generation import Request, generate_images

        request = Request(
            prompt=self.prompt,
            frames=self.frames,
            guidance=self.guidance,
            video_guidance=self.video_guidance,
            candidates=self.candidates,
            fps=self.fps,
            sampler=self.sampler.make(),
        )
        result = generate_images(
            self.out,
            request,
            video=self.video,
            model=self.model,
            tokenizer=self.tokenizer,
            mesh=mesh,
            dtype=self.mesh.dtype,
            progress=progress_line(),
        )
        text = f"{self.out}: {counted(result['frames'], 'frame')}, {result['seconds']['total']:.1f} s"
        print_result(result, text, as_json=self.json)
        return 0
