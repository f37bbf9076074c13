"""The web page: choose a video, see the frames that the model sees, ask, and watch the answer come.

`ringvision demo` opens it. It listens on this machine alone, needs no network, and removes what was uploaded
when it ends.
"""

import html
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ringvision.data.contact_sheet import escaped
from ringvision.data.video import probe, sample, sample_times
from ringvision.errors import UserError
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.explanation import spans_in_words
from ringvision.infer.sampler import Sampler

CLIPS = Path(__file__).resolve().parent / "clips"
QUESTIONS = (
    "How many things were there at 2 seconds?",
    "Which digit was on the card?",
    "When was the card shown?",
    "What appeared, and when?",
)
FRAMES_SHOWN = 48
FRAME_SIZE = 128
MAX_UPLOAD = "500mb"
WAITING = 16  # questions that may queue before a visitor is told to come back
HOURS_KEPT = 4
CSS = """
.gradio-container {max-width: 1100px !important; margin: 0 auto}
#answer textarea {font-size: 1.25rem; line-height: 1.6}
#status p {opacity: .75; font-size: .9rem; font-variant-numeric: tabular-nums}
#notes [role=alert] {border-left: 4px solid #b45309; padding-left: .75em}
"""


def look(video: str | None, fps: float) -> tuple[list[tuple[Any, str]], str]:
    """The frames that the model sees, each with its time, and a line about the video."""
    if not video:
        return [], ""
    with readable_errors(video):
        info = probe(video)
        number = len(sample_times(info.duration, fps))
        every = -(-number // FRAMES_SHOWN)
        pictures = [
            (frame, f"{time:g} s")
            for batch in sample(video, fps=fps / every, size=FRAME_SIZE)
            for frame, time in zip(batch.frames, batch.times, strict=True)
        ]
    shown = f"one in {every} shown" if every > 1 else "all shown"
    return (
        pictures,
        f"{info.width} × {info.height}, {info.duration:.1f} s, {info.codec} · the model sees "
        f"{number} frames, {shown}",
    )


def answering(assistant: Assistant) -> Callable[..., Iterator[tuple[str, str, str]]]:
    """A function that answers a question about a video: (the answer so far, what to know of it as HTML, a
    line about the work), again and again as the answer grows.
    """

    def ask(
        video: str | None, question: str, fps: float, temperature: float
    ) -> Iterator[tuple[str, str, str]]:
        if not video:
            raise gr.Error(
                "Choose a video first: drop one on the left, or pick an example.", print_exception=False
            )
        yield "", "", "Reading the video …"
        with readable_errors(video):
            reply = assistant.ask(video, question, fps=fps, sampler=Sampler(temperature=temperature))
            warnings = notes(reply.warnings)
            many = "s" * (reply.devices != 1)
            text = ""
            read = (
                f"{reply.frames} frames, {reply.video_tokens} tokens of video on {reply.devices} device{many}"
            )
            for piece in reply:
                text += piece
                yield text, warnings, read
            looked = notes(reply.warnings, spans_in_words(reply.evidence, [video]))
            seconds = " · ".join(f"{name} {spent:.2f} s" for name, spent in reply.timings.items())
        yield reply.text, looked, f"{read} · {seconds}"

    return ask


def notes(warnings: Sequence[str], spans: str = "") -> str:
    """What to know of an answer, as HTML that screen readers announce. Its texts come from anywhere: nothing
    of them is taken as HTML.

    Args:
        warnings: a line for each thing that the model was not trained for.
        spans: the seconds that the answer attended to, in words; "": not known yet.
    """
    lines = "".join(f"<p>Take care: {escaped(line)}.</p>" for line in warnings)
    alert = f'<div role="alert">{lines}</div>' if lines else ""
    looked = f'<p role="status">The answer attended most to: {escaped(spans)}.</p>' if spans else ""
    return alert + looked


@dataclass(frozen=True)
class Controls:
    """The parts of the page that a visitor uses, and those that answer."""

    video: gr.Video
    fps: gr.Slider
    question: gr.Textbox
    temperature: gr.Slider
    answer: gr.Textbox
    notes: gr.HTML
    status: gr.Markdown


def _controls(clips: Path) -> Controls:
    """The upper part of the page: the video on the left, question and answer on the right."""
    with gr.Row():
        with gr.Column(scale=2):
            video = gr.Video(label="Video", sources=["upload"], include_audio=True, height=320, buttons=[])
            example_column = gr.Column()
            fps = gr.Slider(
                0.1,
                8,
                value=1,
                step=0.1,
                label="Frames a second",
                info="More see quick things; fewer fit a longer video.",
            )
        with gr.Column(scale=3):
            question = gr.Textbox(
                label="Question",
                placeholder="What appeared, and when?",
                max_length=2000,
                submit_btn="Ask",
            )
            gr.Examples(
                [[text] for text in QUESTIONS],
                [question],
                label="Try one of these",
                api_visibility="private",
            )
            answer = gr.Textbox(label="Answer", lines=3, interactive=False, elem_id="answer")
            about = gr.HTML(elem_id="notes")
            status = gr.Markdown(elem_id="status")
            with gr.Accordion("How the answer is chosen", open=False):
                why = "0 always gives the likeliest answer; more gives others a chance."
                temperature = gr.Slider(0, 1.5, value=0, step=0.05, label="Temperature", info=why)
    if examples := _examples(clips):
        with example_column:
            gr.Examples(
                examples,
                [video, question],
                label="Examples",
                examples_per_page=12,
                api_visibility="private",
            )
    return Controls(video, fps, question, temperature, answer, about, status)


def page(assistant: Assistant, clips: Path = CLIPS) -> gr.Blocks:
    """The page over one assistant, not yet serving.

    clips: a folder of .mp4 files offered as examples (there may be none); its clips.json, where there is one,
    knows what to ask about each: {"name.mp4": {"ask": {question: answer}}}.
    """
    model_turn: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    with gr.Blocks(
        title="RingVision", analytics_enabled=False, delete_cache=(3600, HOURS_KEPT * 3600)
    ) as blocks:
        gr.Markdown(
            "# RingVision\nAsk a video: it is read once, whole; then ask it as many questions as you like."
        )
        controls = _controls(clips)
        seen = gr.Markdown(elem_id="seen")
        frames = gr.Gallery(
            label="What the model sees",
            columns=8,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=[],
        )

        gr.on(
            [controls.video.change, controls.fps.release],
            look,
            [controls.video, controls.fps],
            [frames, seen],
            api_name="look",
            **model_turn,
        )
        controls.question.submit(
            answering(assistant),
            [controls.video, controls.question, controls.fps, controls.temperature],
            [controls.answer, controls.notes, controls.status],
            api_name="ask",
            **model_turn,
        )
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


def _examples(clips: Path) -> list[list[str]]:
    """[clip, question] for each clip and the first thing to ask about it."""
    notes = clips / "clips.json"
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
    return [
        [str(clip), next(iter(known.get(clip.name, {}).get("ask", QUESTIONS)))]
        for clip in sorted(clips.glob("*.mp4"))
    ]


@contextmanager
def readable_errors(video: str) -> Iterator[None]:
    """A UserError becomes a message on the page, with the file called as its owner calls it."""
    try:
        yield
    except UserError as error:
        line = str(error).replace(str(video), Path(video).name)
        raise gr.Error(
            html.escape(line, quote=False), duration=None, title="That did not work", print_exception=False
        ) from None


def serve(
    blocks: gr.Blocks, port: int | None, *, clips: Path = CLIPS, open_browser: bool = False, wait: bool = True
) -> str:
    """Serve the page on 127.0.0.1 and return its address; `wait` holds until it is interrupted. port None:
    any that is free.

    UserError where the port is taken.
    """
    try:
        _, address, _ = blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            inbrowser=open_browser,
            share=False,
            prevent_thread_lock=not wait,
            quiet=not wait,
            max_file_size=MAX_UPLOAD,
            allowed_paths=[str(clips)],
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            css=CSS,
            theme=gr.themes.Base(
                primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
        )
    except OSError as error:
        raise UserError(
            f"the page cannot be served on port {port} ({error}); choose another with --port"
        ) from error
    return str(address)


def main(
    port: int = 7860,
    model: str | os.PathLike[str] | None = None,
    *,
    open_browser: bool = False,
    cache_dtype: str | None = None,
) -> None:
    """Serve the page over the model in `model` (the shipped one when None) until interrupted. UserError where
    it cannot be read. cache_dtype: as `load` takes it.
    """
    assistant = load(model, cache_dtype=cache_dtype)
    with tempfile.TemporaryDirectory(prefix="ringvision-page-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # Gradio knows no other way to be told
        serve(page(assistant), port, open_browser=open_browser)
