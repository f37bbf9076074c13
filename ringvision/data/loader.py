"""Batches of world videos and questions about them: which, in what order and how many depends on the seed and the step alone.

In: a folder of code shards and a weaver. Out: `batch(step)`, the same whenever it is asked for, so that a resumed run sees what
an uninterrupted one would have seen. Every epoch is a permutation of the videos; videos are planned into rows by their length
and a share for the turns wanted, then each row takes or gives up turns until it is full.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ringvision.data import world
from ringvision.data.packing import Batch, fill, place
from ringvision.data.shards import Shards
from ringvision.data.stream import Example, Weaver, stamp
from ringvision.errors import UserError

Ask = Callable[[int], Sequence[world.Question]]  # a scene's seed -> all that is asked about it


@dataclass(frozen=True)
class Turn:
    """One question of a scene, woven: its kind and the tokens of question and answer, int32 [n] each."""

    kind: str
    question: np.ndarray
    answer: np.ndarray

    @property
    def size(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True)
class Exam:
    """A batch to be marked. answers int32 [B, L]: which answer the target at this place belongs to, -1 for none. kinds: of each answer."""

    batch: Batch
    answers: np.ndarray
    kinds: tuple[str, ...]


def ask_world(seed: int) -> Sequence[world.Question]:
    return world.questions(world.make_scene(seed))


class Loader:
    """Builds batches of `rows` x `length` from `shards`.

    seed: of the order of videos and of what is asked. turns_min, turns_max: how many questions about a video. vision_weight: see
    `Weaver.example`, as for question_weight. most_frames: longer videos are left out (0: none are). ask: all questions of a scene (the
    world's). UserError where a video and its shortest question are longer than a row, or the folder is empty.
    """

    def __init__(
        self, shards: Shards, weaver: Weaver, *, length: int, rows: int, seed: int = 0,
        turns_min: int = 1, turns_max: int = 8, vision_weight: float = 0.0, question_weight: float = 0.0, most_frames: int = 0,
        ask: Ask = ask_world,
    ) -> None:  # fmt: skip
        if not 1 <= turns_min <= turns_max:
            raise UserError(f"turns_min={turns_min}, turns_max={turns_max}; give 1 <= turns_min <= turns_max")
        if not len(shards):
            raise UserError(f"{shards.folder} holds no videos; write some")
        self.shards, self.weaver = shards, weaver
        self.length, self.rows, self.seed = length, rows, seed
        self.turns_min, self.turns_max, self.vision_weight, self.question_weight = turns_min, turns_max, vision_weight, question_weight
        self._videos = np.flatnonzero(shards.lengths <= (most_frames or np.inf))
        if not len(self._videos):
            raise UserError(f"{shards.folder} holds no video of at most {most_frames} frames; raise most_frames")
        self._ask = ask
        self.turns = lru_cache(maxsize=1 << 14)(self._turns)
        self._sizes = self._video_sizes()
        sample = [turn.size for index in range(min(64, len(shards))) for turn in self.turns(int(shards.seeds[index]))]
        self._share = int(np.ceil(np.mean(sample))) if sample else 0
        too_long = int((self._sizes + min(sample, default=0) > length).sum())
        if too_long:
            raise UserError(
                f"{too_long} of {len(shards)} videos in {shards.folder} (the longest of {self._sizes.max()} tokens) leave no room for"
                f" a question in rows of {length}; make rows longer"
            )
        self._plans = self._plan()
        self._planned: list[list[tuple[int, int, int]]] = []
        self._planning = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, …; the same for the same seed, whatever was asked before."""
        random = np.random.default_rng([self.seed, 1, step])
        rows: list[list[tuple[int, int]]] = [[] for _ in range(self.rows)]
        for video, wanted, row in self._plan_of(step):
            rows[row].append((video, wanted))
        examples, places = [], []
        for row, planned in enumerate(rows):
            start = 0
            for example in self._row(planned, random):
                examples.append(example)
                places.append((row, start))
                start += len(example.tokens)
        return fill(examples, places, self.length, self.rows)

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

    def exams(self, examples: int) -> list[Exam]:
        """`examples` examples of one question each, as even over the kinds as the scenes allow, in as many batches as they need."""
        random = np.random.default_rng([self.seed, 2])
        asked: dict[str, int] = {}
        chosen: list[tuple[Example, str]] = []
        for index in range(examples):
            video = index % len(self.shards)
            turns = self.turns(int(self.shards.seeds[video]))
            if not turns:
                continue
            order = random.permutation(len(turns))
            turn = turns[min(order, key=lambda i: asked.get(turns[i].kind, 0))]
            if self._sizes[video] + turn.size <= self.length:
                asked[turn.kind] = asked.get(turn.kind, 0) + 1
                chosen.append((self._example(video, [turn]), turn.kind))
        exams = []
        while chosen:
            places = place([len(example.tokens) for example, _ in chosen], self.length, self.rows)
            taken = [(example, kind, found) for (example, kind), found in zip(chosen, places, strict=True) if found is not None]
            answers = np.full((self.rows, self.length), -1, np.int32)
            for number, (example, _, (row, start)) in enumerate(taken):
                first, stop = example.answers[0]
                answers[row, start + first - 1 : start + stop - 1] = number
            batch = fill([example for example, _, _ in taken], [found for _, _, found in taken], self.length, self.rows)
            exams.append(Exam(batch, answers, tuple(kind for _, kind, _ in taken)))
            chosen = [pair for pair, found in zip(chosen, places, strict=True) if found is None]
        return exams

    def _row(self, planned: list[tuple[int, int]], random: np.random.Generator) -> list[Example]:
        """The examples of one row: turns are given up where they were planned too long, and added where there is room."""
        pools = []
        for video, _ in planned:
            turns = self.turns(int(self.shards.seeds[video]))
            pools.append([turns[index] for index in random.permutation(len(turns))])
        counts = [min(wanted, len(pool)) for (_, wanted), pool in zip(planned, pools, strict=True)]
        room = self.length - sum(int(self._sizes[video]) for video, _ in planned)
        room -= sum(turn.size for pool, count in zip(pools, counts, strict=True) for turn in pool[:count])
        while room < 0:
            most = max(range(len(counts)), key=counts.__getitem__)
            counts[most] -= 1
            room += pools[most][counts[most]].size
        for index in sorted(range(len(counts)), key=counts.__getitem__):
            pool = pools[index]
            while counts[index] < min(self.turns_max, len(pool)):
                after = counts[index]
                fits = next((i for i in range(after, len(pool)) if pool[i].size <= room), None)
                if fits is None:
                    break
                pool[after], pool[fits] = pool[fits], pool[after]
                counts[index] += 1
                room -= pool[after].size
        return [self._example(video, pool[:count]) for (video, _), pool, count in zip(planned, pools, counts, strict=True) if count]

    def _example(self, video: int, turns: Sequence[Turn]) -> Example:
        woven = self.weaver.videos([self.shards.video(video)])
        parts = [(turn.question, turn.answer) for turn in turns]
        return self.weaver.continued(woven, parts, vision_weight=self.vision_weight, question_weight=self.question_weight)

    def _turns(self, seed: int) -> tuple[Turn, ...]:
        return tuple(Turn(q.kind, self.weaver.question(q.text), self.weaver.answer(q.answer)) for q in self._ask(seed))

    def _video_sizes(self) -> np.ndarray:
        """Tokens of bos and each video, int64 [videos]."""
        lengths, grid = self.shards.lengths, self.shards.info.grid
        vocabulary = self.weaver.vocabulary
        sizes = 1 + len(vocabulary.vision_start) + len(vocabulary.vision_end) + lengths * (grid[0] * grid[1] + 1)
        if self.weaver.format.stamps:
            times, which = np.unique(self.shards.times, return_inverse=True)
            stamps = np.array([len(self.weaver.text.encode(stamp(time))) for time in times])[which]
            sizes = sizes + np.add.reduceat(stamps, np.cumsum([0, *lengths[:-1]]))
        return sizes

    def _plan_of(self, step: int) -> list[tuple[int, int, int]]:
        with self._planning:
            while len(self._planned) <= step:
                self._planned.append(next(self._plans))
            return self._planned[step]

    def _plan(self) -> Iterator[list[tuple[int, int, int]]]:
        """For each step the (video, turns wanted, row) of its examples; what finds no room waits for the next step."""
        epoch, waiting = 0, list[tuple[int, int, int]]()  # (video, turns wanted, size)
        capacity = self.rows * self.length
        fresh: Iterator[tuple[int, int, int]] = iter(())
        while True:
            while sum(size for _, _, size in waiting) < 1.1 * capacity:
                item = next(fresh, None)
                if item is None:
                    random = np.random.default_rng([self.seed, 0, epoch])
                    videos = random.permutation(self._videos)
                    wanted = random.integers(self.turns_min, self.turns_max + 1, len(videos))
                    sizes = np.minimum(self._sizes[videos] + wanted * self._share, self.length)
                    fresh = iter(zip(videos.tolist(), wanted.tolist(), sizes.tolist(), strict=True))
                    epoch += 1
                    continue
                waiting.append(item)
            places = place([size for _, _, size in waiting], self.length, self.rows)
            pairs = list(zip(waiting, places, strict=True))
            yield [(video, wanted, found[0]) for (video, wanted, _), found in pairs if found is not None]
            waiting = [item for item, found in pairs if found is None]
