"""Video codes and text, woven into the one stream that the transformer reads.

    bos <vision> 0 59 c c c c eof 1 0 c c c c eov </vision> USER: what? ASSISTANT: this eos USER: and?
    ASSISTANT: that eos
                 └ minute, second     └ stamp                └ first turn ────────────────┘ └ second turn ───────────────┘

In: codes [T, h, w], the time of each frame in seconds, turns of question and answer. Out: int32 tokens, and
for training the weight of each as something to be predicted. The video comes first, so that what was computed
for it serves every question; the same functions make training examples and prompts, so that the second is a
prefix of the first.

Models of other people's were trained on other streams, which a `StreamFormat` describes:

    bos You are … USER: what?\n <vision> c c c c eof c c c c eov </vision> ASSISTANT:     LWM: the question stands before the video
    bos You are … USER: <vision> 2*2 <codes> c c / c c / <eof> </vision> what?. ASSISTANT:  Emu3: every frame
    is a picture by itself
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.vocabulary import Vocabulary

Video = tuple[np.ndarray, Sequence[float] | np.ndarray]  # (codes [T, h, w], times [T])
Turn = tuple[str, str]  # (question, answer)


@dataclass(frozen=True)
class PictureFormat:
    """How a frame stands alone: vision_start, its size, its codes row by row, vision_end.

    size: the text before the codes, in which {height} and {width} stand for rows and columns of them ("":
    nothing). size_end, row_end, end: ids behind the size, behind every row, and behind the last of them.
    """

    size: str = ""
    size_end: tuple[int, ...] = ()
    row_end: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("size_end", "row_end", "end"):
            object.__setattr__(self, name, tuple(int(id) for id in getattr(self, name)))


@dataclass(frozen=True)
class StreamFormat:
    """How things stand in the stream; part of a model, because it was trained on it.

    stamps: before each frame the minute and the second at which it is seen, a piece each, so that every frame
    takes as many tokens as the next. in_step: spaces before a further video let its frames begin where those
    of the first do, counted in frames. question holds `{question}` once, and `{video}` where the videos stand
    in it (nowhere: before all of it); the answer stands after one space. Where it spells a special token of
    the text tokenizer, that token is meant. picture: how a frame stands alone, where it does; without it all
    frames of a video stand between one vision_start and vision_end, eof between them and eov after the last.
    """

    stamps: bool = True
    question: str = "USER: {question} ASSISTANT:"
    in_step: bool = True
    picture: PictureFormat | None = None

    def __post_init__(self) -> None:
        if self.question.count("{question}") != 1 or self.question.count("{video}") > 1:
            raise UserError(
                f"the question's form {self.question!r} must hold {{question}} once, and {{video}} at "
                "most once"
            )

    @property
    def parts(self) -> tuple[str, str]:
        """The question's form before the videos, and after them."""
        before, video, after = self.question.partition("{video}")
        return (before, after) if video else ("", self.question)

    @property
    def asks_first(self) -> bool:
        """Whether the question stands before the videos, so that they are read anew for every question."""
        return "{question}" in self.parts[0]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "StreamFormat":
        """UserError that names the fields that a format does not have, and those of another type."""
        return StreamFormat(**fitted("a stream format", StreamFormat, values))


@dataclass(frozen=True)
class Example:
    """One document to train on.

    tokens: int32 [n]. loss_mask: float32 [n], how much predicting this very token counts among those of the
    example (0: not at all). weight: how much the example counts among others. answers: for each turn, the
    (start, stop) of its answer with the closing eos.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    weight: float = 1.0
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PromptProcessor:
    """Weaves with one text tokenizer, one vocabulary and one format."""

    text: TextTokenizer
    vocabulary: Vocabulary
    format: StreamFormat = StreamFormat()

    def video(self, codes: np.ndarray, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """codes [T, h, w] and times [T] seconds -> int32 [n]: the frames, and what stands before, between and
        after them.
        """
        frames = len(codes)
        end = len(times)
        if codes.ndim != 3 or not frames or frames != end:
            raise UserError(
                f"codes of shape {codes.shape} with {end} times; give codes [T, h, w], T of at least "
                "1, and one time a frame"
            )
        pieces: list[Any] = [self.start]
        for index, frame in enumerate(codes):
            last = index + 1 == frames
            pieces += [self.before(frame.shape, times[index]), self.rows(frame), self.after(last=last)]
        return np.concatenate([np.asarray(piece, np.int32) for piece in [*pieces, self.end]])

    @property
    def start(self) -> tuple[int, ...]:
        """What opens all frames of a video together."""
        return () if self.format.picture else self.vocabulary.vision_start

    @property
    def end(self) -> tuple[int, ...]:
        """What closes them."""
        return () if self.format.picture else self.vocabulary.vision_end

    @property
    def row_end(self) -> tuple[int, ...]:
        """What stands behind each row of a frame's codes."""
        return self.format.picture.row_end if self.format.picture else ()

    def before(self, grid: tuple[int, ...], seconds: float) -> list[int]:
        """What stands before the codes of a frame of grid (h, w) that is seen at this time."""
        stamp = self.stamp(seconds) if self.format.stamps else []
        picture = self.format.picture
        if picture is None:
            return stamp
        size = picture.size.replace("{height}", str(grid[0])).replace("{width}", str(grid[1]))
        return [*stamp, *self.vocabulary.vision_start, *self.text.encode(size), *picture.size_end]

    def rows(self, codes: np.ndarray) -> np.ndarray:
        """codes [h, w] of a frame -> int32 [n]: their tokens row by row, each with its end."""
        tokens = self.vocabulary.codes_to_tokens(np.asarray(codes))
        ends = np.tile(np.array(self.row_end, np.int32), (len(tokens), 1))
        return np.concatenate([tokens, ends], axis=1).reshape(-1)

    def after(self, *, last: bool) -> list[int]:
        """What stands behind the codes of a frame. last: no other follows in its video."""
        picture = self.format.picture
        if picture is None:
            return [self.vocabulary.eov if last else self.vocabulary.eof]
        return [*picture.end, *self.vocabulary.vision_end]

    def opening(self, question: str = "") -> np.ndarray:
        """bos, and what stands before the videos: int32 [n]. question: of which this holds something where
        the format asks first.
        """
        return np.array([self.vocabulary.bos, *self._words(self.format.parts[0], question)], np.int32)

    def videos(self, videos: Sequence[Video], question: str = "") -> np.ndarray:
        """The opening and the videos one after another: all of a prompt that can be prefilled before the
        question is known, unless the format asks first.
        """
        tokens = self.opening(question)
        for codes, times in videos:
            gap = (
                (1 - len(tokens)) % self.period((codes.shape[1], codes.shape[2]))
                if codes.ndim == 3 and self.format.in_step
                else 0
            )
            tokens = np.concatenate(
                [tokens, np.array(self.text.encode(" ") * gap, np.int32), self.video(codes, times)]
            )
        return tokens

    def period(self, grid: tuple[int, int], seconds: float = 0.0) -> int:
        """Tokens from a frame of grid (h, w) that is seen at this time to the next."""
        return (
            len(self.before(grid, seconds))
            + grid[0] * (grid[1] + len(self.row_end))
            + len(self.after(last=False))
        )

    def stamp(self, seconds: float) -> list[int]:
        """The tokens of a time: its minute and its second, always two below 100 minutes."""
        return [token for part in stamp(seconds) for token in self.text.encode(str(part))]

    def question(self, question: str) -> np.ndarray:
        """What follows the videos, or the eos of the answer before: int32 [n]."""
        return np.array(self._words(self.format.parts[1], question), np.int32)

    def _words(self, form: str, question: str) -> list[int]:
        """The ids of a part of the question's form; what the question spells is text alone."""
        asked = question.strip()
        guard = self.text.guard([asked])
        return self.text.encode_marked(form.replace("{question}", self.text.protect(asked, guard)), guard)

    def answer(self, answer: str) -> np.ndarray:
        """One space, the answer, eos: int32 [n]."""
        return np.array([*self.text.encode(" " + answer.strip()), self.vocabulary.eos], np.int32)

    def prompt(self, videos: Sequence[Video], question: str) -> np.ndarray:
        """bos, videos, question: int32 [n]; the model goes on with the answer and eos."""
        return np.concatenate([self.videos(videos, question), self.question(question)])

    def example(
        self,
        videos: Sequence[Video],
        turns: Sequence[Turn],
        *,
        vision_weight: float = 0.0,
        question_weight: float = 0.0,
    ) -> Example:
        """A document of videos and turns. Loss is on answers and their eos; every answer counts 1 however
        long it is.

        vision_weight: how much all codes, eof and eov together count beside one answer. question_weight: how
        much each question counts beside its answer; what may be asked of a video says much about it.
        UserError for several turns where the format asks first.
        """
        if self.format.asks_first and len(turns) > 1:
            raise UserError(
                f"{len(turns)} turns for a stream in which the question stands before the video; give "
                "one turn an example"
            )
        parts = [(self.question(q), self.answer(a)) for q, a in turns]
        return self.continued(
            self.videos(videos, turns[0][0] if turns else ""),
            parts,
            vision_weight=vision_weight,
            question_weight=question_weight,
        )

    def continued(
        self,
        videos: np.ndarray,
        turns: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        vision_weight: float = 0.0,
        question_weight: float = 0.0,
    ) -> Example:
        """The same from parts that `videos`, `question` and `answer` gave."""
        tokens = np.concatenate([videos, *(part for turn in turns for part in turn)])
        loss_mask = np.zeros(len(tokens), np.float32)
        if vision_weight:
            vision = self.vocabulary.is_vision(videos)
            loss_mask[: len(videos)][vision] = vision_weight / max(1, int(vision.sum()))
        answers = []
        at = len(videos)
        for question, answer in turns:
            start = at + len(question)
            at = start + len(answer)
            loss_mask[start - len(question) : start] = question_weight / len(question)
            loss_mask[start:at] = 1.0 / len(answer)
            answers.append((start, at))
        return Example(tokens, loss_mask, weight=float(len(turns)) if turns else 1.0, answers=tuple(answers))

    def frames_that_fit(
        self, length: int, question: str, *, grid: tuple[int, int], fps: float = 1.0, answer_tokens: int = 0
    ) -> int:
        """How many frames of grid (h, w), `fps` a second from 0, fit with a question and an answer into
        `length` tokens; 0 where none.
        """
        fixed = [
            len(self.opening(question)),
            len(self.start),
            len(self.end),
            len(self.question(question)),
            answer_tokens,
        ]
        room = length - sum(fixed)
        frames = 0
        while (need := self.period(grid, frames / fps)) <= room:
            room -= need
            frames += 1
        return frames


def stamp(seconds: float) -> tuple[int, int]:
    """A time as the stream writes it: whole minutes, and the whole seconds since."""
    return divmod(max(0, int(seconds + 1e-6)), 60)
