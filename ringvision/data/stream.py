"""Video codes and text, woven into the one stream that the transformer reads.

    bos <vision> 0 59 c c c c eof 1 0 c c c c eov </vision> USER: what? ASSISTANT: this eos USER: and? ASSISTANT: that eos
                 └ minute, second     └ stamp                └ first turn ────────────────┘ └ second turn ───────────────┘

In: codes [T, h, w], the time of each frame in seconds, turns of question and answer. Out: int32 tokens, and for training
the weight of each as something to be predicted. The video comes first, so that what was computed for it serves every
question; the same functions make training examples and prompts, so that the second is a prefix of the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ringvision.data.text_codec import TextCodec
from ringvision.errors import UserError
from ringvision.vocabulary import Vocabulary

Video = tuple[np.ndarray, Sequence[float] | np.ndarray]  # (codes [T, h, w], times [T])
Turn = tuple[str, str]  # (question, answer)


@dataclass(frozen=True)
class StreamFormat:
    """How things stand in the stream; part of a model, because it was trained on it.

    stamps: before each frame the minute and the second at which it is seen, a piece each, so that every frame takes as many tokens as the
    next. question holds `{question}` once; the answer stands
    after one space.
    """

    stamps: bool = True
    question: str = "USER: {question} ASSISTANT:"

    def __post_init__(self) -> None:
        if self.question.count("{question}") != 1:
            raise UserError(f"the question's form {self.question!r} must hold {{question}} once")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "StreamFormat":
        """UserError that names the fields that a format does not have."""
        if unknown := sorted(set(values) - set(StreamFormat.__dataclass_fields__)):
            raise UserError(f"a stream format has no field {', '.join(unknown)}; it has {', '.join(StreamFormat.__dataclass_fields__)}")
        return StreamFormat(**values)


@dataclass(frozen=True)
class Example:
    """One document to train on.

    tokens: int32 [n]. loss_mask: float32 [n], how much predicting this very token counts among those of the example (0: not
    at all). weight: how much the example counts among others. answers: for each turn, the (start, stop) of its answer with
    the closing eos.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    weight: float = 1.0
    answers: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Weaver:
    """Weaves with one text tokenizer, one vocabulary and one format."""

    text: TextCodec
    vocabulary: Vocabulary
    format: StreamFormat = StreamFormat()

    def video(self, codes: np.ndarray, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """codes [T, h, w] and times [T] seconds -> int32 [n]: vision_start, frames with eof between them, eov, vision_end."""
        frames, end = len(codes), len(times)
        if codes.ndim != 3 or not frames or frames != end:
            raise UserError(f"codes of shape {codes.shape} with {end} times; give codes [T, h, w], T of at least 1, and one time a frame")
        flat = self.vocabulary.codes_to_tokens(np.asarray(codes).reshape(frames, -1))
        pieces: list[Any] = [self.vocabulary.vision_start]
        for index in range(frames):
            if self.format.stamps:
                pieces.append(self.stamp(times[index]))
            pieces.append(flat[index])
            pieces.append((self.vocabulary.eof if index + 1 < frames else self.vocabulary.eov,))
        pieces.append(self.vocabulary.vision_end)
        return np.concatenate([np.asarray(piece, np.int32) for piece in pieces])

    def videos(self, videos: Sequence[Video]) -> np.ndarray:
        """bos and the videos one after another: all of a prompt that can be prefilled before the question is known.

        Spaces before a further video let its frames begin where those of the first do, counted in frames.
        """
        tokens = np.array([self.vocabulary.bos], np.int32)
        for codes, times in videos:
            gap = (1 - len(tokens)) % self.period((codes.shape[1], codes.shape[2])) if codes.ndim == 3 else 0
            tokens = np.concatenate([tokens, np.array(self.text.encode(" ") * gap, np.int32), self.video(codes, times)])
        return tokens

    def period(self, grid: tuple[int, int]) -> int:
        """Tokens from one frame of grid (h, w) to the next: stamp, codes, eof."""
        return grid[0] * grid[1] + 1 + (len(self.stamp(0.0)) if self.format.stamps else 0)

    def stamp(self, seconds: float) -> list[int]:
        """The tokens of a time: its minute and its second, always two below 100 minutes."""
        return [token for part in stamp(seconds) for token in self.text.encode(str(part))]

    def question(self, question: str) -> np.ndarray:
        """What follows the videos, or the eos of the answer before: int32 [n]."""
        return np.array(self.text.encode(self.format.question.replace("{question}", question.strip())), np.int32)

    def answer(self, answer: str) -> np.ndarray:
        """One space, the answer, eos: int32 [n]."""
        return np.array([*self.text.encode(" " + answer.strip()), self.vocabulary.eos], np.int32)

    def prompt(self, videos: Sequence[Video], question: str) -> np.ndarray:
        """bos, videos, question: int32 [n]; the model goes on with the answer and eos."""
        return np.concatenate([self.videos(videos), self.question(question)])

    def example(
        self, videos: Sequence[Video], turns: Sequence[Turn], *, vision_weight: float = 0.0, question_weight: float = 0.0
    ) -> Example:
        """A document of videos and turns. Loss is on answers and their eos; every answer counts 1 however long it is.

        vision_weight: how much all codes, eof and eov together count beside one answer. question_weight: how much each question counts
        beside its answer; what may be asked of a video says much about it.
        """
        parts = [(self.question(q), self.answer(a)) for q, a in turns]
        return self.continued(self.videos(videos), parts, vision_weight=vision_weight, question_weight=question_weight)

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
        answers, at = [], len(videos)
        for question, answer in turns:
            start = at + len(question)
            at = start + len(answer)
            loss_mask[start - len(question) : start] = question_weight / len(question)
            loss_mask[start:at] = 1.0 / len(answer)
            answers.append((start, at))
        return Example(tokens, loss_mask, weight=float(len(turns)) if turns else 1.0, answers=tuple(answers))

    def frames_that_fit(self, length: int, question: str, *, grid: tuple[int, int], fps: float = 1.0, answer_tokens: int = 0) -> int:
        """How many frames of grid (h, w), `fps` a second from 0, fit with a question and an answer into `length` tokens; 0 where none."""
        fixed = [1, len(self.vocabulary.vision_start), len(self.vocabulary.vision_end), len(self.question(question)), answer_tokens]
        room, frames, frame = length - sum(fixed), 0, grid[0] * grid[1] + 1
        while (need := frame + (len(self.stamp(frames / fps)) if self.format.stamps else 0)) <= room:
            room -= need
            frames += 1
        return frames


def stamp(seconds: float) -> tuple[int, int]:
    """A time as the stream writes it: whole minutes, and the whole seconds since."""
    return divmod(max(0, int(seconds + 1e-6)), 60)
