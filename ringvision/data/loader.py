"""Batches of tokenized videos and questions about them: which, in what order and how many depends on the seed
and the step alone.

In: a DataSource, a PromptProcessor, and how rows are to be filled (VideoData). Out: `batch(step)`, the same
whenever it is asked for, so that a resumed run sees what an uninterrupted one would have seen. Every epoch is
a permutation of the videos. Videos are planned into rows by their length and an average share for the
questions wanted; then each row takes or gives up questions until it is full.
"""

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ringvision.data.packing import Batch, assign_slots, fill
from ringvision.data.sources import DataSource, VideoData
from ringvision.data.stream import Example, PromptProcessor
from ringvision.errors import UserError

SAMPLED = 64
"""Videos whose questions say how many tokens a question takes on average."""
AHEAD = 1.1
"""How many batches' worth of tokens are planned at once: some choice fills rows better than none."""


class Clip(NamedTuple):
    """The frames `first` to `first + frames - 1` of a video."""

    video: int
    first: int
    frames: int


class Planned(NamedTuple):
    """A clip that is to be shown, how many questions are wanted, and the tokens that both are reckoned to
    take.
    """

    clip: Clip
    turns: int
    size: int


@dataclass(frozen=True)
class Turn:
    """One question and its answer as tokens, int32 [n] each."""

    kind: str
    question: np.ndarray
    answer: np.ndarray

    @property
    def size(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True)
class EvalBatch:
    """A batch of examples with one question each, whose answers are scored.

    answers: int32 [B, L], the number of the answer that the target here belongs to, -1 for none. kinds:
    of each answer.
    """

    batch: Batch
    answers: np.ndarray
    kinds: tuple[str, ...]


class Loader:
    """Builds batches of `data.rows` x `data.length` tokens.

    Args:
        source: the videos, and what is asked about them.
        processor: turns them into tokens.
        data: lengths, numbers of questions and weights; see VideoData. Where a row has free slots left, the
            videos that are asked least are asked more; where it has too few, the most asked are asked less.
        seed: of the order of videos and of the choice of questions.

    Raises:
        UserError: where a video and its shortest question are longer than a row, nothing is asked about any
            video and codes do not count either, or there is no such kind of questions to favour.
    """

    def __init__(
        self, source: DataSource, processor: PromptProcessor, data: VideoData, *, seed: int = 0
    ) -> None:
        self.source = source
        self.processor = processor
        self.data = data
        self.seed = seed
        if unknown := [kind for kind in data.favour if kind not in source.kinds]:
            raise UserError(
                f"no kind of question to favour is called {unknown[0]!r}; there are {', '.join(source.kinds)}"
            )
        self.turns = lru_cache(maxsize=1 << 14)(self._turns)
        self._frame_ends, self._starts = self._frame_sizes()
        sample = [
            turn.size for index in range(min(SAMPLED, len(source))) for turn in self.turns(self._whole(index))
        ]
        self._share = int(np.ceil(np.mean(sample))) if sample else 0
        self._check_lengths(min(sample, default=0))
        if not (sample or data.vision_weight or any(map(self._is_asked, range(len(source))))):
            raise UserError(
                f"nothing is asked about any video in {source.name}: give captions or questions where they "
                "are tokenized, or let predicting codes count (vision_weight)"
            )
        self._plans = self._plan()
        self._planned: list[list[tuple[Planned, int]]] = []
        self._planning = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, …, arrays [rows, length]; the same for the same seed, whatever was asked
        before.
        """
        random = np.random.default_rng([self.seed, 1, step])
        rows: list[list[Planned]] = [[] for _ in range(self.data.rows)]
        for planned, row in self._plan_of(step):
            rows[row].append(planned)
        examples = []
        slots = []
        for row, wanted in enumerate(rows):
            start = 0
            for example in self._row(wanted, random):
                examples.append(example)
                slots.append((row, start))
                start += len(example.tokens)
        return fill(examples, slots, self.data.length, self.data.rows)

    def batches(self, first: int, *, depth: int = 2) -> Generator[Batch, None, None]:
        """The batches of steps first, first+1, … without end, built in a thread up to `depth` ahead."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        stop = threading.Event()

        def build() -> None:
            step = first
            while not stop.is_set():
                try:
                    item: Batch | BaseException = self.batch(step)
                except BaseException as error:
                    item = error
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if isinstance(item, BaseException):
                    return
                step += 1

        thread = threading.Thread(target=build, name="batches", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def eval_batches(self, examples: int) -> list[EvalBatch]:
        """`examples` examples of one question each, as even over the kinds as the videos allow, in as many
        batches [rows, length] as they need.
        """
        length = self.data.length
        rows = self.data.rows
        eval_batches = []
        chosen = self._choose(examples)
        while chosen:
            slots = assign_slots([len(example.tokens) for example, _ in chosen], length, rows)
            taken = [
                (example, kind, slot)
                for (example, kind), slot in zip(chosen, slots, strict=True)
                if slot is not None
            ]
            answers = np.full((rows, length), -1, np.int32)
            for number, (example, _, (row, start)) in enumerate(taken):
                first, stop = example.answers[0]
                # The target of a token is the one after it, hence one earlier than the answer's own tokens.
                answers[row, start + first - 1 : start + stop - 1] = number
            batch = fill([example for example, _, _ in taken], [slot for _, _, slot in taken], length, rows)
            eval_batches.append(EvalBatch(batch, answers, tuple(kind for _, kind, _ in taken)))
            chosen = [pair for pair, slot in zip(chosen, slots, strict=True) if slot is None]
        return eval_batches

    # --------------------------------------------------------------------------------------- what is asked

    def _choose(self, examples: int) -> list[tuple[Example, str]]:
        """Examples of one question each and the kinds of these, the kind that was chosen least before
        first.
        """
        random = np.random.default_rng([self.seed, 2])
        asked: dict[str, int] = {}
        chosen = []
        for index in range(examples):
            clip = self._whole(index % len(self.source))
            turns = self.turns(clip)
            if not turns:
                continue
            order = random.permutation(len(turns))
            turn = turns[min(order, key=lambda i: asked.get(turns[i].kind, 0))]
            if self._size(clip) + turn.size <= self.data.length:
                asked[turn.kind] = asked.get(turn.kind, 0) + 1
                chosen.append((self._example(clip, [turn]), turn.kind))
        return chosen

    def _row(self, planned: list[Planned], random: np.random.Generator) -> list[Example]:
        """The examples of one row: questions are given up where too many were planned, and added where
        slots are free.

        Auxiliary kinds are asked last, so that the other answers must be found in the frames and not in an
        earlier answer.
        """
        pools = []
        for one in planned:
            turns = self.turns(one.clip)
            pool = [turns[index] for index in random.permutation(len(turns))]
            pools.append(sorted(pool, key=lambda turn: turn.kind not in self.data.favour))
        counts = [min(one.turns, len(pool)) for one, pool in zip(planned, pools, strict=True)]
        self._fit(pools, counts, self.data.length - sum(self._size(one.clip) for one in planned))
        examples = []
        for one, pool, count in zip(planned, pools, counts, strict=True):
            asked = sorted(pool[:count], key=lambda turn: turn.kind in self.source.auxiliary)
            if asked or (not pool and self.data.vision_weight):
                examples.append(self._example(one.clip, asked))
        return examples

    def _fit(self, pools: list[list[Turn]], counts: list[int], free: int) -> None:
        """Change how many of each pool are asked until they fill `free` tokens; what is asked stands first in
        its pool.
        """
        free -= sum(turn.size for pool, count in zip(pools, counts, strict=True) for turn in pool[:count])
        while free < 0:
            most = max(range(len(counts)), key=counts.__getitem__)
            counts[most] -= 1
            free += pools[most][counts[most]].size
        growing = list(range(len(counts)))
        while growing:
            index = min(growing, key=counts.__getitem__)
            pool = pools[index]
            after = counts[index]
            fits = next((i for i in range(after, len(pool)) if pool[i].size <= free), None)
            if fits is None:
                growing.remove(index)
                continue
            pool[after], pool[fits] = pool[fits], pool[after]
            counts[index] += 1
            free -= pool[after].size

    def _example(self, clip: Clip, turns: Sequence[Turn]) -> Example:
        codes, times = self.source.video(clip.video)
        seen = slice(clip.first, clip.first + clip.frames)
        tokens = self.processor.videos([(codes[seen], times[seen])])
        parts = [(turn.question, turn.answer) for turn in turns]
        return self.processor.continued(
            tokens, parts, vision_weight=self.data.vision_weight, question_weight=self.data.question_weight
        )

    def _turns(self, clip: Clip) -> tuple[Turn, ...]:
        asked = self.source.questions(clip.video, clip.first, clip.frames)
        return tuple(
            Turn(kind, self.processor.question(question), self.processor.answer(answer))
            for kind, question, answer in asked
        )

    def _is_asked(self, video: int) -> bool:
        return bool(self.source.questions(video, 0, int(self.source.lengths[video])))

    # ------------------------------------------------------------------------------------- what is shown

    def _whole(self, video: int) -> Clip:
        return Clip(video, 0, int(self.source.lengths[video]))

    def _clip(self, video: int, most: float, random: np.random.Generator) -> Clip:
        """The whole video where it has at most `most` frames, otherwise a random part of at most so many."""
        length = int(self.source.lengths[video])
        if length <= most:
            return self._whole(video)
        count = int(random.integers(1, int(most) + 1))
        return Clip(video, int(random.integers(length - count + 1)), count)

    def _most_frames(self, step: int) -> float:
        start, steps = self.data.growth
        if not start or step >= steps:
            return np.inf
        return start + (int(self.source.lengths.max()) - start) * step / steps

    def _frame_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all frames before each frame of the source, int64 [frames + 1], and the number of
        each video's first frame, int64 [videos + 1].
        """
        lengths = self.source.lengths
        height, width = self.source.info.grid
        sizes = np.full(int(lengths.sum()), height * width + 1)  # codes and the end of the frame
        if self.processor.format.stamps:
            times, which = np.unique(self.source.times, return_inverse=True)
            sizes += np.array([len(self.processor.stamp(time)) for time in times])[which]
        return np.cumsum([0, *sizes]), np.cumsum([0, *lengths])

    def _size(self, clip: Clip) -> int:
        """Tokens of bos and these frames."""
        vocabulary = self.processor.vocabulary
        start = self._starts[clip.video] + clip.first
        frames = self._frame_ends[start + clip.frames] - self._frame_ends[start]
        return 1 + len(vocabulary.vision_start) + len(vocabulary.vision_end) + int(frames)

    def _check_lengths(self, shortest: int) -> None:
        sizes = np.array([self._size(self._whole(index)) for index in range(len(self.source))])
        too_long = int((sizes + shortest > self.data.length).sum())
        if too_long:
            raise UserError(
                f"{too_long} of {len(self.source)} videos in {self.source.name} (the longest of "
                f"{sizes.max()} tokens) leave no room for a question in rows of {self.data.length}; "
                "make rows longer"
            )

    def _plan_of(self, step: int) -> list[tuple[Planned, int]]:
        with self._planning:
            while len(self._planned) <= step:
                self._planned.append(next(self._plans))
            return self._planned[step]

    def _plan(self) -> Iterator[list[tuple[Planned, int]]]:
        """For each step its clips and their rows; what fits into no row waits for the next step."""
        step = 0
        waiting = list[Planned]()
        capacity = self.data.rows * self.data.length
        epochs = self._epochs()
        while True:
            waited = len(waiting)  # who waits once does not wait twice: an epoch stays an epoch
            total = sum(planned.size for planned in waiting)
            while total < AHEAD * capacity:
                video, wanted, random = next(epochs)
                clip = self._clip(video, self._most_frames(step), random)
                # of a short part not much is to be asked
                turns = wanted if clip == self._whole(video) else min(wanted, clip.frames + 1)
                size = min(self._size(clip) + turns * self._share, self.data.length)
                waiting.append(Planned(clip, turns, size))
                total += size
            slots = assign_slots(
                [planned.size for planned in waiting], self.data.length, self.data.rows, before=waited
            )
            pairs = list(zip(waiting, slots, strict=True))
            yield [(planned, slot[0]) for planned, slot in pairs if slot is not None]
            waiting = [planned for planned, slot in pairs if slot is None]
            step += 1

    def _epochs(self) -> Iterator[tuple[int, int, np.random.Generator]]:
        """All videos in a new order every epoch: (video, questions wanted, the epoch's random numbers)."""
        epoch = 0
        while True:
            random = np.random.default_rng([self.seed, 0, epoch])
            videos = random.permutation(len(self.source))
            wanted = random.integers(self.data.turns_min, self.data.turns_max + 1, len(videos))
            for video, turns in zip(videos.tolist(), wanted.tolist(), strict=True):
                yield video, turns, random
            epoch += 1
