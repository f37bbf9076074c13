"""`ringvision ask VIDEO… QUESTION`: the answer as it is generated, or with --json all that is known of it."""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions, describe_mesh
from ringvision.cli.options import CacheDtype, FramesASecond, MaxTokens, Model, SamplerOptions, Sampling
from ringvision.cli.output import counted, print_result, progress_line, say
from ringvision.cli.parsing import COUNT, POSITIVE, Command, Json, option
from ringvision.errors import UserError

if TYPE_CHECKING:
    from ringvision.infer.assistant import Assistant
    from ringvision.infer.reply import Reply
    from ringvision.infer.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Ask(Command):
    videos: Annotated[
        tuple[str, ...],
        Positional,
        option("a video file; several are read one after another", "VIDEO [VIDEO ...]"),
    ]
    question: Annotated[str, Positional, option("what is asked about them", "QUESTION")]
    model: Model = None
    tokenizer: Annotated[
        str | None,
        option("what turns the video into codes", "NAME|DIR", default="the one that the model names"),
    ] = None
    fps: FramesASecond = 1.0
    max_tokens: MaxTokens = 128
    stop: Annotated[tuple[str, ...], option("strings before which the answer ends", "TEXT [TEXT ...]")] = ()
    cache_dtype: CacheDtype = None
    sessions: Annotated[
        str | None,
        option(
            "keep what was read of videos here, and go on from what was kept", "DIR", default="nothing is"
        ),
    ] = None
    sessions_limit: Annotated[int, COUNT, option("bytes that --sessions keeps at most", "BYTES")] = 4 << 30
    explain: Annotated[
        str | None,
        option("write which seconds the answer attended to, as a page or a picture", "FILE.html|png"),
    ] = None
    follow: Annotated[
        bool,
        option("read a file that is being written until it has stopped growing (or Ctrl-C), then answer"),
    ] = False
    follow_quiet: Annotated[
        float, POSITIVE, option("seconds without growth after which --follow takes the file for complete")
    ] = 5.0
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)
    sampler: Sampling = dataclasses.field(default_factory=SamplerOptions)

    def _explanation(self) -> Path | None:
        """Where --explain goes. UserError where nothing can be written there."""
        if self.explain is None:
            return None
        from ringvision.data.contact_sheet import sheet_path

        path = sheet_path(self.explain)
        if not path.parent.is_dir():
            raise UserError(f"--explain {self.explain}: there is no folder {path.parent}; make it first")
        return path

    def _check_follow(self) -> None:
        """UserError for what --follow does not go with."""
        if len(self.videos) > 1:
            raise UserError(f"--follow reads one video, and {len(self.videos)} were given")
        if self.sessions is not None:
            raise UserError("--follow keeps nothing for later, as --sessions asks; leave one of them out")
        if not os.path.exists(self.videos[0]):
            raise UserError(f"{self.videos[0]}: no such file; give the file that is being written")

    def _reply(self, assistant: "Assistant", sampler: "Sampler") -> "Reply":
        """The answer, nothing of which was generated yet."""
        if not self.follow:
            return assistant.ask(
                list(self.videos),
                self.question,
                fps=self.fps,
                sampler=sampler,
                max_tokens=self.max_tokens,
                stop=self.stop,
                progress=progress_line(),
            )
        from ringvision.infer.follow import follow

        assistant.processor.check_request(1, self.question, self.fps, self.max_tokens)
        session = assistant.session(fps=self.fps)
        with _asked_to_stop() as stop:
            fault = follow(
                session,
                self.videos[0],
                quiet=self.follow_quiet,
                stop=stop,
                report=lambda seconds, size: say(f"followed to {seconds:g} s, {size / 1e6:.1f} MB"),
            )
        if fault is not None:
            say(f"warning: its end was not read: {fault}")
        return session.ask(self.question, sampler=sampler, max_tokens=self.max_tokens, stop=self.stop)

    def run(self) -> int:
        started = time.perf_counter()
        explain = self._explanation()
        if self.follow:
            self._check_follow()
        mesh = self.mesh.make(by_core=True)
        from ringvision.data.video import probe
        from ringvision.infer.assistant import load
        from ringvision.infer.explanation import write_explanation

        sampler = self.sampler.make()
        for video in () if self.follow else self.videos:
            probe(video)  # a file that is no video is refused before a model is loaded for it
        assistant = load(
            self.model,
            mesh=mesh,
            tokenizer=self.tokenizer,
            dtype=self.mesh.dtype,
            cache_dtype=self.cache_dtype,
            sessions=self.sessions,
            sessions_limit=self.sessions_limit,
        )
        loaded = time.perf_counter() - started
        say(f"model ready on {describe_mesh(mesh)} after {loaded:.1f} s")
        reply = self._reply(assistant, sampler)
        read = time.perf_counter() - started - loaded
        say(
            f"read {counted(reply.frames, 'frame')} at {self.fps:g} a second: "
            f"{counted(reply.video_tokens, 'token')} of video, {read:.1f} s"
        )
        for line in reply.warnings:
            say(f"warning: {line}")
        for piece in reply:
            if not self.json:
                print(piece, end="", flush=True)
        pointing = {"spans": reply.spans} if self.json else {}
        if explain is not None:
            write_explanation(explain, self.question, reply, self.videos)
        seconds = {"load": loaded, **reply.timings, "total": time.perf_counter() - started}
        answer = {
            "answer": reply.text,
            "tokens": reply.tokens,
            "frames": reply.frames,
            "video_tokens": reply.video_tokens,
            "devices": reply.devices,
            "finish": reply.finish,
            "probability": reply.probability,
            **pointing,
            "warnings": reply.warnings,
            "seconds": seconds,
        }
        print_result(answer, "", as_json=self.json)  # the text stands there already: its line ends
        if not self.json:
            say(", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items()))
        return 0


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C makes what it gives true; the second one interrupts as usual."""
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
