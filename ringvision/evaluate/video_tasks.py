"""Questions about videos of the world that are drawn when they are needed -> rows of a `ResultLog`.

    VideoTask (a scene and its questions) ─write_video→ H.264 file ─ask, one question after another→ rows

All questions about a video are asked in succession, so that an assistant reads it once. The next video is
drawn meanwhile, and a file is deleted after its last question.
"""

import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO

from ringvision.data.world import Scene, read_time, write_video
from ringvision.errors import UserError
from ringvision.evaluate.progress import TimeLeft
from ringvision.evaluate.result_log import ResultLog, Row


class QuestionAnswerer(Protocol):
    """What is evaluated: anything with the assistant's `ask`."""

    def ask(self, videos: Any, question: str, fps: float = 1.0) -> Any: ...


@dataclass(frozen=True)
class Asking:
    """A question, and what counts as its answer.

    kind: of the question, unique among those about its video. tolerance: by how many seconds a time may be
    wrong (None: the answer is taken word for word).
    """

    kind: str
    text: str
    answer: str
    tolerance: int | None = None

    def is_right(self, answer: str) -> bool:
        """Whether this says what is right."""
        if self.tolerance is None:
            return normalise(answer) == normalise(self.answer)
        said = read_time(normalise(answer))
        right = read_time(self.answer)
        return said is not None and right is not None and abs(said - right) <= self.tolerance


@dataclass(frozen=True)
class VideoTask:
    """A video and what is asked about it.

    name: of the file, and of its rows. seconds: its length. make: its scene. fields: what its rows say beside
    question and answer.
    """

    name: str
    seconds: int
    make: Callable[[], Scene]
    askings: tuple[Asking, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    def key(self, asking: Asking) -> str:
        """That of the row of one of its questions."""
        return f"{self.name}/{asking.kind}"


def normalise(answer: str) -> str:
    """The answer without what does not make it wrong: upper case, extra spaces and a full stop at the end."""
    return " ".join(answer.casefold().split()).removesuffix(".").rstrip()


def check_length(assistant: Any, seconds: int, question: str, fps: float) -> None:
    """UserError where an assistant with a `processor` cannot read a video of so many seconds with this
    question: better said before hours of shorter ones.
    """
    processor = getattr(assistant, "processor", None)
    if processor is not None:
        processor.check_videos([f"a video of {seconds} seconds"], [float(seconds)], question, fps)


def settings_of(assistant: Any) -> dict[str, Any]:
    """What tells one assistant from another, for the settings of a ResultLog."""
    model = getattr(getattr(assistant, "model", None), "hash", None)
    tokenizer = getattr(getattr(assistant, "tokenizer", None), "hash", None)
    return {"model": model, "tokenizer": tokenizer}


def ask_all(
    assistant: QuestionAnswerer,
    tasks: Sequence[VideoTask],
    log: ResultLog,
    *,
    fps: float,
    file_fps: int = 1,
    size: int = 128,
    progress: TextIO | None = None,
) -> None:
    """Asks all that is not in the log yet, task by task.

    Args:
        assistant: what is asked.
        tasks: the videos, each of another name.
        log: gets a row for each question: key, the task's fields, kind, question, expected, answer, right,
            and how many frames and tokens of video were read (None where the assistant does not say).
        fps: frames a second that the assistant is to read.
        file_fps: frames a second of the files.
        size: side of a frame in the files, in pixels.
        progress: where it is printed how far it is, and how long the rest will take (None: nowhere).
    """
    waiting = [task for task in tasks if any(task.key(asking) not in log for asking in task.askings)]
    questions = sum(len(task.askings) for task in tasks)
    time_left = TimeLeft(progress, log, questions, sum(task.seconds for task in waiting))
    scenes = {task.name: task.make for task in waiting}
    with closing(written_ahead(scenes, fps=file_fps, size=size)) as files:
        for task, path in zip(waiting, files, strict=True):
            for asking in task.askings:
                if task.key(asking) not in log:
                    log.add(_row(task, asking, assistant.ask([path], asking.text, fps=fps)))
            time_left.done(task.seconds)


def _row(task: VideoTask, asking: Asking, reply: Any) -> Row:
    answer = reply.text
    return {
        "key": task.key(asking),
        **task.fields,
        "kind": asking.kind,
        "question": asking.text,
        "expected": asking.answer,
        "answer": answer,
        "right": asking.is_right(answer),
        "frames": getattr(reply, "frames", None),
        "tokens": getattr(reply, "video_tokens", None),
    }


def written_ahead(
    scenes: Mapping[str, Callable[[], Scene]], *, fps: int, size: int = 128
) -> Generator[Path, None, None]:
    """The H.264 file of each scene in turn. The next is drawn meanwhile, and a file is deleted when the next
    one is asked for.

    Args:
        scenes: by the name of the file, what makes the scene.
        fps: frames a second of the files.
        size: side of a frame, in pixels.

    Returns:
        The files; close it where it is not read to its end.

    Raises:
        UserError: the disk takes no more.
    """
    with tempfile.TemporaryDirectory(prefix="ringvision-videos-") as folder, ThreadPoolExecutor(1) as ahead:

        def write(name: str) -> Path:
            path = Path(folder) / f"{name}.mp4"
            try:
                write_video(scenes[name](), path, fps=fps, size=size)
            except OSError as error:
                raise UserError(f"a video cannot be written to {folder}: {error.strerror}") from None
            return path

        names = iter(scenes)
        coming = [ahead.submit(write, name) for name in islice(names, 1)]
        while coming:
            path = coming.pop().result()
            coming += [ahead.submit(write, name) for name in islice(names, 1)]
            yield path
            path.unlink()
