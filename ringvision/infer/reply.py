"""An answer on its way: its text piece by piece, and what is known of it when it is complete.

TokenStream ─pieces→ text, and what is known into an Outcome ─Reply→ whoever asked
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.infer.ending import StopStrings, repeats
from ringvision.infer.evidence import Evidence, Viewing
from ringvision.infer.scheduler import TokenStream


@dataclass
class Outcome:
    """What is known of an answer, filled while it is generated. finish: see `Reply`; "" before its end."""

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    finish: str = ""


class Reply:
    """An answer on its way: iterate for pieces of text as they are generated, or take `.text`, which waits
    for the last.

    frames, video_tokens, devices: what was read, known from the start, as are warnings: a line for each thing
    that the model is asked and was not trained for. tokens: ids generated so far, the
    closing eos included; log_probabilities: of each, as the model sees it among all ids of text, whatever the
    sampler makes of that. timings: seconds spent in decode, tokenize, prefill, session (with a folder of
    sessions: reading or writing there), when the answer is complete generate, and for who asks evidence.
    """

    def __init__(
        self,
        coming: Iterator[str],
        outcome: Outcome,
        *,
        frames: int,
        video_tokens: int,
        devices: int,
        timings: dict[str, float],
        viewing: Viewing,
        warnings: Sequence[str] = (),
    ) -> None:
        """
        Args:
            coming: the pieces of text, as they are generated.
            outcome: of the answer; `coming` fills it.
            frames: frames of video that were read.
            video_tokens: tokens that these take.
            devices: devices of the mesh.
            timings: seconds spent so far; `coming` adds "generate".
            viewing: what it can attend to.
            warnings: see `scope.warnings`.
        """
        self.tokens = outcome.tokens
        self.log_probabilities = outcome.log_probabilities
        self.frames = frames
        self.video_tokens = video_tokens
        self.devices = devices
        self.timings = timings
        self._outcome = outcome
        self._coming = coming
        self.viewing = viewing
        self.warnings = list(warnings)
        self._said = ""

    def __iter__(self) -> Iterator[str]:
        """The pieces that are still to come."""
        for piece in self._coming:
            if not self._said:
                piece = piece.lstrip()  # the answer stands after a space
            self._said += piece
            if piece:
                yield piece

    @property
    def text(self) -> str:
        """The whole answer; generates what is still missing of it."""
        for _ in self:
            pass
        return self._said.strip()

    @property
    def finish(self) -> str:
        """Why the answer ended: "stop" (the model's eos, or a stop string), "length" (it had no more room),
        "repeated" (no more room, and it said the same again and again: `ending.repeats`), "empty" (whatever
        the reason, there is no text). Generates what is missing of it.
        """
        assert self.text is not None
        return self._outcome.finish

    @property
    def probability(self) -> float:
        """The product of the probabilities of the answer's tokens, its eos included, from 0 to 1. Generates
        what is missing of it.
        """
        assert self.text is not None
        return math.exp(sum(self.log_probabilities))

    @cached_property
    def evidence(self) -> Evidence:
        """How much the answer attended to each frame. Generates what is missing of it, and reads question and
        answer once more; nobody else pays for that.
        """
        assert self.text is not None
        began = time.perf_counter()
        found = self.viewing.evidence(self.tokens)
        self.timings["evidence"] = time.perf_counter() - began
        return found

    @property
    def spans(self) -> list[tuple[float, ...]]:
        """(start, end) in seconds of the stretches of the video that the answer attended to most, the
        heaviest first (see `Evidence.spans`); where several videos were asked about, (start, end, which one,
        from 0 on).
        """
        several = bool(self.evidence.video.any())
        return [tuple(span) if several else tuple(span[:2]) for span in self.evidence.spans]


def pieces(
    stream: TokenStream, text: TextTokenizer, stop: Sequence[str], outcome: Outcome, timings: dict[str, float]
) -> Iterator[str]:
    """Pieces of text as they come.

    Holds no reference to the Reply: in a reference cycle a dropped Reply would be collected late, and its row
    freed late.

    Args:
        stream: the tokens.
        text: which makes text of them.
        stop: strings before the first of which the text ends.
        outcome: what else is known goes there.
        timings: gets "generate".
    """
    words = text.stream()
    stops = StopStrings(stop)
    said = ""
    began = time.perf_counter()
    try:
        for token in stream:
            outcome.tokens.append(token)
            outcome.log_probabilities.append(stream.log_probabilities[-1])
            piece = stops.push(words.push(token))
            said += piece
            yield piece
            if stops.found:
                break
        timings["generate"] = time.perf_counter() - began
        rest = stops.push(words.finish()) + stops.finish()
        said += rest
        ended = bool(outcome.tokens) and outcome.tokens[-1] in stream.request.stop
        outcome.finish = finish(outcome.tokens, said, stops.found or ended)
        yield rest
    finally:
        stream.close()


def finish(tokens: Sequence[int], said: str, stopped: bool) -> str:
    """Why an answer ended: see `Reply.finish`. stopped: by the eos or a stop string."""
    if not said.strip():
        return "empty"
    if stopped:
        return "stop"
    return "repeated" if repeats(tokens) else "length"
