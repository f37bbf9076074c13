"""Requests of another evaluation program, each with its videos and pictures -> answers of an assistant.

    VisualRequest ─same visuals, same options: together→ ask_many → texts, in the order of the requests
    visuals, prompt, continuation ─Engine.prefill→ DecodeBatch.score → log-probability

A video is a path; a picture is a path or a PIL image, and becomes a video of one frame, since that is what an
assistant reads. Nothing is fetched: an address is refused as a file that is not there.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ringvision.data.video import probe, sample_times
from ringvision.data.video.writer import video_writer
from ringvision.errors import UserError
from ringvision.infer.assistant import Assistant
from ringvision.infer.decode_batch import DecodeBatch, slots_to_score
from ringvision.infer.engine import Prefix
from ringvision.infer.sampler import Sampler
from ringvision.infer.scheduler import DecodeRequest

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LARGEST_SIDE = 1024
"""Pixels: larger pictures are made smaller; video tokenizers read far fewer."""
TOGETHER = 16


@dataclass(frozen=True)
class VisualRequest:
    """What is asked about some visuals, and how the answer is generated."""

    visuals: tuple[Any, ...]
    prompt: str
    max_tokens: int = 128
    sampler: Sampler = field(default_factory=Sampler)
    stop: tuple[str, ...] = ()

    @property
    def group(self) -> tuple[Any, ...]:
        """Requests of one group are asked as a batch: same videos, same options."""
        seen = tuple(one if isinstance(one, str) else id(one) for one in self.visuals)
        return seen, self.max_tokens, self.sampler, self.stop


def read_request(visuals: Any, prompt: str, options: Mapping[str, Any], *, most: int = 1024) -> VisualRequest:
    """A request as lmms-eval makes it.

    Args:
        visuals: a list of paths and pictures, or one of them.
        prompt: the question.
        options: of generation: max_new_tokens, do_sample, temperature, top_p, top_k, until, num_beams; others
            are passed over, as lmms-eval's own models do.
        most: tokens of the longest answer, whatever the options say.

    Returns:
        The request.

    Raises:
        UserError: for what an assistant cannot do: no visual, sound, beams.
    """
    held = [visuals] if isinstance(visuals, str | os.PathLike | Image.Image) else list(visuals or ())
    if not held:
        raise UserError("a request without video or picture was given; this model is asked about some")
    for one in held:
        if not isinstance(one, str | os.PathLike | Image.Image):
            raise UserError(
                f"a {type(one).__name__} was given as a visual; expected the path of a video or picture, or "
                "a PIL image"
            )
    if (options.get("num_beams") or 1) != 1:
        raise UserError(f"num_beams {options['num_beams']} was given; there is no beam search, expected 1")
    drawn = bool(options.get("do_sample", bool(options.get("temperature"))))
    until = options.get("until") or ()
    return VisualRequest(
        tuple(one if isinstance(one, Image.Image) else os.fspath(one) for one in held),
        prompt,
        min(int(options.get("max_new_tokens") or 128), most),
        Sampler(
            float(options.get("temperature") or 1.0) if drawn else 0.0,
            int(options.get("top_k") or 0) if drawn else 0,
            float(options.get("top_p") or 1.0) if drawn else 1.0,
        ),
        tuple(text for text in ([until] if isinstance(until, str) else until) if text.strip()),
    )


class VisualAnswers:
    """An assistant that answers such requests.

    Args:
        assistant: what is asked.
        fps: frames a second that are read of videos.
        together: requests that are asked as one batch.
    """

    def __init__(self, assistant: Assistant, *, fps: float = 1.0, together: int = TOGETHER) -> None:
        self.assistant = assistant
        self.fps = fps
        self.together = together
        self._prefix: tuple[tuple[Any, ...], Prefix] | None = None

    def answers(self, requests: Sequence[VisualRequest]) -> Iterable[tuple[int, str | UserError]]:
        """Each request's number and answer, or why there is none; those about one video in succession."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(request.group, []).append(number)
        for numbers in groups.values():
            for first in range(0, len(numbers), self.together):
                some = numbers[first : first + self.together]
                try:
                    texts = self._ask([requests[number] for number in some])
                except UserError as error:
                    yield from ((number, error) for number in some)
                else:
                    yield from zip(some, texts)

    def _ask(self, requests: Sequence[VisualRequest]) -> list[str]:
        like = requests[0]
        with _as_videos(like.visuals) as paths:
            replies = self.assistant.ask_many(
                paths,
                [request.prompt for request in requests],
                self.fps,
                sampler=like.sampler,
                max_tokens=like.max_tokens,
                stop=like.stop,
            )
            return [reply.text for reply in replies]

    def log_probability(self, visuals: Any, prompt: str, continuation: str) -> tuple[float, bool]:
        """How likely the model is to answer so: the natural logarithm of the probability of the continuation
        (its closing eos not included) among all ids, and whether it is what greedy decoding says. UserError
        as `read_request`, and where the model cannot read so much.
        """
        if not continuation.strip():
            raise UserError("the continuation is empty; give a text whose probability is wanted")
        request = read_request(visuals, prompt, {})
        prompts = self.assistant.processor.prompts
        prefix = self._read(request)
        asked = prompts.question(prompt)
        expected = prompts.answer(continuation)[:-1]
        engine = self.assistant.engine
        ids = (0, self.assistant.text.size)
        slots = engine.slots_for(len(asked)) + slots_to_score(engine, len(expected) + 1)
        batch = DecodeBatch(engine, 1, slots, prefix=prefix, ids=ids)
        batch.read(dict.fromkeys(range(batch.count), asked[:-1]))
        score = float(batch.score(asked[-1:], expected)[0])
        wanted = DecodeRequest(asked, max_tokens=len(expected), prefix=prefix, ids=ids)
        (stream,) = self.assistant.scheduler.submit([wanted])
        return score, list(stream) == expected.tolist()

    def _read(self, request: VisualRequest) -> Prefix:
        """What has read the visuals; the last one is remembered, for the other continuations."""
        processor = self.assistant.processor
        key = (request.group, processor.prompts.opening(request.prompt).tobytes())
        if self._prefix is not None and self._prefix[0] == key:
            return self._prefix[1]
        with _as_videos(request.visuals) as paths:
            processor.check_request(len(paths), request.prompt, self.fps, request.max_tokens)
            durations = [probe(path).duration for path in paths]
            processor.check_videos(paths, durations, request.prompt, self.fps)
            read = [
                processor.read_video(path, self.fps, expected=len(sample_times(duration, self.fps)))
                for path, duration in zip(paths, durations)
            ]
        prefix = self.assistant.engine.prefill(processor.prompts.videos(read, request.prompt))
        self._prefix = (key, prefix)
        return prefix


@contextmanager
def _as_videos(visuals: Sequence[Any]) -> Iterator[list[str]]:
    """Visuals -> paths of videos; those made of pictures are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ringvision-pictures-") as folder:
        paths = []
        for number, visual in enumerate(visuals):
            if isinstance(visual, str) and Path(visual).suffix.lower() not in PICTURES:
                paths.append(visual)
                continue
            path = f"{folder}/{number}.mp4"
            with video_writer(path, 1, 1.0) as append:
                append(_pixels(visual)[None])
            paths.append(path)
        yield paths


def _pixels(visual: Any) -> np.ndarray:
    """A picture -> uint8 [H, W, 3]. UserError where it is none."""
    try:
        picture = Image.open(visual) if isinstance(visual, str) else visual
        picture = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{visual} cannot be read as a picture ({str(error)[:200]})") from None
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return np.asarray(picture)
