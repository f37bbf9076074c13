"""Video codes and text, joined into the one token stream that the transformer reads.

    bos <vision> 0 59 c c c c eof 1 0 c c c c eov </vision> USER: what? ASSISTANT: this eos USER: and? …
                 └──┴ minute, second                        └ first turn ──────────────┘ └ second turn

    bos <vision> c c c c 0:59 eof c c c c 1:00 eov </vision> USER: at 1 minute? ASSISTANT: 1:00 that eos …
                         └ a stamp, where the vocabulary has some                          └ of the question

In: codes [T, h, w], the time of each frame in seconds, and turns of question and answer. Out: int32 tokens
[n], and for training the weight of each token in the loss. The video comes before the questions, so that what
was computed for it serves all of them. Training examples and prompts come from the same functions, so that a
prompt is a prefix of a training example.

Other projects' models were trained on other streams, which a `StreamFormat` describes. LWM has the question
before the video; Emu3 makes every frame a picture of its own:

    LWM    bos You are … USER: what?\\n <vision> c c c c eof c c c c eov </vision> ASSISTANT:
    Emu3   bos You are … USER: <vision> 2*2 <codes> c c / c c / <eof> </vision> what?. ASSISTANT:
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.times import named_times, stamp
from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.vocabulary import Vocabulary

Video = tuple[np.ndarray, Sequence[float] | np.ndarray]  # (codes [T, h, w], times [T])
Turn = tuple[str, str]  # (question, answer)


@dataclass(frozen=True)
class PictureFormat:
    """How a frame is written as a picture of its own: vision_start, its size, its codes row by row,
    vision_end.

    size: the text before the codes, in which {height} and {width} are replaced by the numbers of rows and
    columns ("": no text). size_end, row_end, end: token ids after the size, after every row, and after all
    rows.
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
    """The layout of the stream. It belongs to a model, which was trained on it.

    stamps: whether each frame says when it is shown: before its codes the minute and the second, a piece of
    text each, or, where the vocabulary has stamps of its own, one of these behind its codes, which then knows
    what was seen and when; so all frames take the same number of tokens. in_step: whether spaces are put
    before a second video,
    so that its frames begin at the same token, counted modulo the tokens of a frame, as those of the first.
    question: the text around a question. It holds `{question}` once, and `{video}` where the videos belong
    (without it they come first); the answer follows after one space. The text of a special token in it means
    that token. picture: how each frame is written as a picture of its own (None: all frames of a video are
    between one vision_start and one vision_end, with eof between frames and eov after the last).
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
        """The text around the question, split into what comes before the videos and what comes after."""
        before, video, after = self.question.partition("{video}")
        return (before, after) if video else ("", self.question)

    @property
    def asks_first(self) -> bool:
        """Whether the question comes before the videos, so that they must be read again for every
        question.
        """
        return "{question}" in self.parts[0]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "StreamFormat":
        """UserError names the fields that a format does not have, and those of another type."""
        return StreamFormat(**fitted("a stream format", StreamFormat, values))


@dataclass(frozen=True)
class SpareTurn:
    """A question with its answer that may be added to an example where a row has room for it.

    tokens: int32 [n], of both. loss_mask: float32 [n]. answer: where in them the answer begins. last: it
    tells so much that it stands behind all turns that are not last. weight: of the answer.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    answer: int
    last: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Example:
    """One document to train on.

    tokens: int32 [n]. loss_mask: float32 [n], the weight of predicting each token, among those of the example
    (0: none). weight: that of the example among others. answers: for each turn the (start, stop) of its
    answer, the closing eos included. spare: turns that may still be added. tail: how many tokens at the end
    belong to turns that are last (see SpareTurn).
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    weight: float = 1.0
    answers: tuple[tuple[int, int], ...] = ()
    spare: tuple[SpareTurn, ...] = ()
    tail: int = 0

    def with_turns(self, turns: Sequence[SpareTurn]) -> "Example":
        """The example with these turns added, those that are not last before its tail; the rest of its spare
        ones are left out. It counts as much more as their answers do.
        """
        if not turns:
            return self
        at = len(self.tokens) - self.tail
        early = [turn for turn in turns if not turn.last]
        late = [turn for turn in turns if turn.last]
        inserted = sum(len(turn.tokens) for turn in early)
        answers = [
            (start + inserted, stop + inserted) if start >= at else (start, stop)
            for start, stop in self.answers
        ]
        for group, begin in ((early, at), (late, len(self.tokens) + inserted)):
            for turn in group:
                answers.append((begin + turn.answer, begin + len(turn.tokens)))
                begin += len(turn.tokens)

        def joined(name: str) -> np.ndarray:
            own = getattr(self, name)
            return np.concatenate(
                [
                    own[:at],
                    *(getattr(turn, name) for turn in early),
                    own[at:],
                    *(getattr(turn, name) for turn in late),
                ]
            )

        # An example without a turn counts 1 for its codes alone; with turns as much as their answers.
        own_turns = self.weight if self.answers else 0.0
        return replace(
            self,
            tokens=joined("tokens"),
            loss_mask=joined("loss_mask"),
            weight=own_turns + sum(turn.weight for turn in turns),
            answers=tuple(sorted(answers)),
            spare=(),
            tail=self.tail + sum(len(turn.tokens) for turn in late),
        )


@dataclass(frozen=True)
class PromptProcessor:
    """Builds the stream with one text tokenizer, one vocabulary and one format."""

    text: TextTokenizer
    vocabulary: Vocabulary
    format: StreamFormat = StreamFormat()

    def video(self, codes: np.ndarray, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """codes int [T, h, w] and times [T] in seconds -> int32 [n]: the tokens of one video. UserError where
        there is no frame, or another number of times.
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
            pieces += [
                self.before(frame.shape, times[index]),
                self.rows(frame),
                self.after(times[index], last=last),
            ]
        return np.concatenate([np.asarray(piece, np.int32) for piece in [*pieces, self.end]])

    @property
    def start(self) -> tuple[int, ...]:
        """The tokens before all frames of a video together; none where each frame has its own."""
        return () if self.format.picture else self.vocabulary.vision_start

    @property
    def end(self) -> tuple[int, ...]:
        """The tokens after all frames of a video together."""
        return () if self.format.picture else self.vocabulary.vision_end

    @property
    def row_end(self) -> tuple[int, ...]:
        """The tokens after each row of a frame's codes."""
        return self.format.picture.row_end if self.format.picture else ()

    def before(self, grid: tuple[int, ...], seconds: float) -> list[int]:
        """The tokens before the codes of a frame. grid: its (h, w). seconds: when it is shown."""
        stamp = [] if self._stamps_behind else self._stamp(seconds)
        picture = self.format.picture
        if picture is None:
            return stamp
        size = picture.size.replace("{height}", str(grid[0])).replace("{width}", str(grid[1]))
        return [*stamp, *self.vocabulary.vision_start, *self.text.encode(size), *picture.size_end]

    def rows(self, codes: np.ndarray) -> np.ndarray:
        """codes int [h, w] of a frame -> int32 [n]: their tokens row by row, each row with its `row_end`."""
        tokens = self.vocabulary.codes_to_tokens(np.asarray(codes))  # (h, w)
        ends = np.tile(np.array(self.row_end, np.int32), (len(tokens), 1))  # (h, tokens of row_end)
        return np.concatenate([tokens, ends], axis=1).reshape(-1)

    def after(self, seconds: float, *, last: bool) -> list[int]:
        """The tokens after the codes of a frame. seconds: when it is shown. last: whether it is the last one
        of its video.
        """
        stamp = self._stamp(seconds) if self._stamps_behind else []
        picture = self.format.picture
        if picture is None:
            return [*stamp, self.vocabulary.eov if last else self.vocabulary.eof]
        return [*stamp, *picture.end, *self.vocabulary.vision_end]

    @property
    def _stamps_behind(self) -> bool:
        """Whether a frame's time stands behind its codes; if there is one, it stands before them else."""
        return self.vocabulary.stamps > 0

    def opening(self, question: str = "") -> np.ndarray:
        """-> int32 [n]: bos, and the text before the videos. question: part of that text where the format
        asks first, else not used.
        """
        return np.array([self.vocabulary.bos, *self._words(self.format.parts[0], question)], np.int32)

    def videos(self, videos: Sequence[Video], question: str = "") -> np.ndarray:
        """-> int32 [n]: the opening and the videos, one after another. This is all of a prompt that can be
        prefilled before the question is known, unless the format asks first.

        videos: codes int [T, h, w] and times [T] in seconds of each.
        """
        tokens = self.opening(question)
        for codes, times in videos:
            gap = self.gap(len(tokens), codes.shape[1:]) if codes.ndim == 3 else []
            tokens = np.concatenate([tokens, np.array(gap, np.int32), self.video(codes, times)])
        return tokens

    def gap(self, before: int, grid: tuple[int, ...]) -> list[int]:
        """The tokens that let a video behind `before` others begin in step; none where the format does not
        ask for that. grid: (h, w) of a frame's codes.
        """
        if not self.format.in_step:
            return []
        return self.text.encode(" ") * ((1 - before) % self.period((grid[0], grid[1])))

    def period(self, grid: tuple[int, int], seconds: float = 0.0) -> int:
        """How many tokens a frame takes that is not the last one. grid: its (h, w). seconds: when it is
        shown.
        """
        return (
            len(self.before(grid, seconds))
            + grid[0] * (grid[1] + len(self.row_end))
            + len(self.after(seconds, last=False))
        )

    @property
    def seconds(self) -> int | None:
        """How long a video may be whose frames have time stamps; None: as long as one likes."""
        stamped = self.format.stamps and self.vocabulary.stamps
        return 60 * self.vocabulary.minutes if stamped else None

    def _stamp(self, seconds: float) -> list[int]:
        """The tokens of a time: one where the vocabulary has stamps, otherwise its minute and its second,
        always two below 100 minutes; none where frames have no stamps. UserError where the vocabulary has
        stamps, but none of this minute.
        """
        if not self.format.stamps:
            return []
        if self.vocabulary.stamps:
            return [self.vocabulary.stamp(*stamp(seconds))]
        return [token for part in stamp(seconds) for token in self.text.encode(str(part))]

    def question(self, question: str) -> np.ndarray:
        """-> int32 [n]: what comes after the videos, or after the eos of the previous answer. Where the
        vocabulary has stamps, those of the times that it says come last: what is looked for is then written
        nearly as it stands in the video, and the answer begins where it is looked for.
        """
        return np.array([*self._words(self.format.parts[1], question), *self._stamps_of(question)], np.int32)

    def _stamps_of(self, question: str) -> list[int]:
        """The stamps of the times in a question, in order; what is later than any stamp has none."""
        if not (self.format.stamps and self.vocabulary.stamps):
            return []
        return [
            self.vocabulary.stamp(*time, asked=True)
            for time in named_times(question)
            if time[0] < self.vocabulary.minutes and time[1] < 60
        ]

    def _words(self, form: str, question: str) -> list[int]:
        """The ids of a part of the format's text with the question in it. Special tokens are made of the
        format's text alone, never of the question.
        """
        content = question.strip()
        guard = self.text.guard([content])
        return self.text.encode_marked(form.replace("{question}", self.text.protect(content, guard)), guard)

    def answer(self, answer: str) -> np.ndarray:
        """-> int32 [n]: one space, the answer, eos."""
        return np.array([*self.text.encode(" " + answer.strip()), self.vocabulary.eos], np.int32)

    def prompt(self, videos: Sequence[Video], question: str) -> np.ndarray:
        """-> int32 [n]: bos, videos, question. The model continues with the answer and eos.

        videos: codes int [T, h, w] and times [T] in seconds of each.
        """
        return np.concatenate([self.videos(videos, question), self.question(question)])

    def example(
        self,
        videos: Sequence[Video],
        turns: Sequence[Turn],
        *,
        vision_weight: float = 0.0,
        question_weight: float = 0.0,
    ) -> Example:
        """A document of videos and turns, to train on. The loss is on answers and their eos.

        Args:
            videos: codes int [T, h, w] and times [T] in seconds of each.
            turns: question and answer of each.
            vision_weight: the weight of all codes, eof and eov together; that of one answer is 1.
            question_weight: the weight of each question; predicting what is asked about a video teaches
                about the video, too.

        Returns:
            The example. Every answer has weight 1 in its loss_mask, spread over its tokens.

        Raises:
            UserError: there are several turns, and the format puts the question before the video.
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
        answer_weight: float = 1.0,
    ) -> Example:
        """The same from parts that `videos`, `question` and `answer` returned.

        Args:
            videos: int32 [n].
            turns: question int32 [n] and answer int32 [n] of each.
            vision_weight: the weight of all codes, eof and eov together.
            question_weight: the weight of each question.
            answer_weight: the most that an answer counts (see `weight_of`).

        Returns:
            The example.
        """
        tokens = np.concatenate([videos, *(part for turn in turns for part in turn)])
        loss_mask = np.zeros(len(tokens), np.float32)
        if vision_weight:
            vision = self.vocabulary.is_vision(videos)
            loss_mask[: len(videos)][vision] = vision_weight / max(1, int(vision.sum()))
        answers = []
        weight = 0.0
        at = len(videos)
        for question, answer in turns:
            start = at + len(question)
            at = start + len(answer)
            loss_mask[start - len(question) : start] = self._counting(question, question_weight)
            counts = weight_of(answer, answer_weight)
            loss_mask[start:at] = counts / len(answer)
            weight += counts
            answers.append((start, at))
        return Example(tokens, loss_mask, weight=weight if turns else 1.0, answers=tuple(answers))

    def spare_turn(
        self,
        question: np.ndarray,
        answer: np.ndarray,
        *,
        question_weight: float = 0.0,
        answer_weight: float = 1.0,
        last: bool = False,
    ) -> SpareTurn:
        """A turn that may be added to an example that `continued` made.

        Args:
            question: int32 [n], as `question` returned it.
            answer: int32 [n], as `answer` returned it.
            question_weight: the weight of the question.
            answer_weight: the most that the answer counts (see `weight_of`).
            last: whether it stands behind all turns that are not last.

        Returns:
            The turn.
        """
        counts = weight_of(answer, answer_weight)
        loss_mask = np.full(len(question) + len(answer), counts / len(answer), np.float32)
        loss_mask[: len(question)] = self._counting(question, question_weight)
        return SpareTurn(np.concatenate([question, answer]), loss_mask, len(question), last, counts)

    def _counting(self, question: np.ndarray, weight: float) -> np.ndarray:
        """What each token of a question counts, int32 [n] -> float32 [n]: words alike, stamps, which no model
        predicts, nothing.
        """
        words = question < self.vocabulary.size
        return (weight / max(1, int(words.sum())) * words).astype(np.float32)

    def frames_that_fit(
        self, length: int, question: str, *, grid: tuple[int, int], fps: float = 1.0, answer_tokens: int = 0
    ) -> int:
        """How many frames fit into `length` tokens, together with a question and its answer.

        Args:
            length: tokens in all.
            question: the question.
            grid: rows and columns of a frame's codes, (h, w).
            fps: frames a second; the first is at second 0.
            answer_tokens: how many tokens to keep free for the answer.

        Returns:
            The number of frames; 0 where none fits.
        """
        fixed = [
            len(self.opening(question)),
            len(self.start),
            len(self.end),
            len(self.question(question)),
            answer_tokens,
        ]
        free = length - sum(fixed)
        if self.seconds is not None:
            return max(0, min(free // self.period(grid), int(self.seconds * fps)))
        frames = 0
        while (need := self.period(grid, frames / fps)) <= free:
            free -= need
            frames += 1
        return frames


def weight_of(answer: np.ndarray, most: float) -> float:
    """How much an answer counts, int32 [n] with its eos: half for each of its tokens, `most` at most. A most
    of 1 is one answer, one vote. Then the first token of a long answer, which may decide between it and a
    short one, counts less than that of the short one; with a larger most it counts as much.
    """
    return min(0.5 * len(answer), most)
