"""Batches of world videos and questions about them: which, in what order and how many depends on the seed and
the step alone.

In: a folder of code shards and a weaver. Out: `batch(step)`, the same whenever it is asked for, so that a
resumed run sees what an uninterrupted one would have seen. Every epoch is a permutation of the videos; videos
are planned into rows by their length and a share for the turns wanted, then each row takes or gives up turns
until it is full.
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
from ringvision.data.stream import Example, PromptProcessor
from ringvision.errors import UserError

Ask = Callable[
    [int, int, int], Sequence[world.Question]
]  # a scene's seed, first second and seconds seen -> all that is asked about it


@dataclass(frozen=True)
class Piece:
    """The frames `first` to `first + count - 1` of a video."""

    video: int
    first: int
    count: int


Planned = tuple[
    Piece, int, int
]  # what is shown, turns wanted, the row it goes to (or, before it has one, its size)


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
class EvalBatch:
    """A batch to be marked. answers int32 [B, L]: which answer the target at this place belongs to, -1 for
    none. kinds: of each answer.
    """

    batch: Batch
    answers: np.ndarray
    kinds: tuple[str, ...]


def ask_world(seed: int, first: int, count: int) -> Sequence[world.Question]:
    scene = world.make_scene(seed)
    return world.questions(scene if (first, count) == (0, int(scene.duration)) else scene.clip(first, count))


class Loader:
    """Builds batches of `rows` x `length` from `shards`.

    seed: of the order of videos and of what is asked. turns_min, turns_max: how many questions about a video
    are planned; where a row has room left, the videos that are asked least are asked more, where it has not
    enough, the most asked are asked less. vision_weight, question_weight: see `PromptProcessor.example`.
    grow_from, grow_steps: at step 0 at most `grow_from` frames in a row are shown of a video, a random piece
    of it, and more from step to step until after grow_steps all are; 0 shows all from the start. favour:
    kinds of questions that others wait for. ask: all questions of a scene (the world's). UserError where a
    video and its shortest question are longer than a row, the folder is empty, or there is no such kind to
    favour.
    """

    def __init__(
        self, shards: Shards, processor: PromptProcessor, *, length: int, rows: int, seed: int = 0,
        turns_min: int = 1, turns_max: int = 8, vision_weight: float = 0.0, question_weight: float = 0.0, grow_from: int = 0,
        grow_steps: int = 0, favour: Sequence[str] = (), ask: Ask = ask_world,
    ) -> None:  # fmt: skip
        if not 1 <= turns_min <= turns_max:
            raise UserError(f"turns_min={turns_min}, turns_max={turns_max}; give 1 <= turns_min <= turns_max")
        kinds = (*world.KINDS, *world.AUXILIARY)
        if unknown := [kind for kind in favour if kind not in kinds]:
            raise UserError(
                f"no kind of question to favour is called {unknown[0]!r}; there are {', '.join(kinds)}"
            )
        if not len(shards):
            raise UserError(f"{shards.folder} holds no videos; write some")
        self.shards = shards
        self.processor = processor
        self.length = length
        self.rows = rows
        self.seed = seed
        self.turns_min = turns_min
        self.turns_max = turns_max
        self.vision_weight = vision_weight
        self.question_weight = question_weight
        self.grow_from = grow_from
        self.grow_steps = grow_steps
        self.favour = tuple(favour)
        self._ask = ask
        self.turns = lru_cache(maxsize=1 << 14)(self._turns)
        self._frame_ends, self._starts = self._frame_sizes()
        sample = [
            turn.size for index in range(min(64, len(shards))) for turn in self.turns(self._whole(index))
        ]
        self._share = int(np.ceil(np.mean(sample))) if sample else 0
        sizes = np.array([self._size(self._whole(index)) for index in range(len(shards))])
        too_long = int((sizes + min(sample, default=0) > length).sum())
        if too_long:
            raise UserError(
                f"{too_long} of {len(shards)} videos in {shards.folder} (the longest of {sizes.max()} "
                "tokens) leave no room for"
                f" a question in rows of {length}; make rows longer"
            )
        self._plans = self._plan()
        self._planned: list[list[Planned]] = []
        self._planning = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, …; the same for the same seed, whatever was asked before."""
        random = np.random.default_rng([self.seed, 1, step])
        rows: list[list[tuple[Piece, int]]] = [[] for _ in range(self.rows)]
        for video, wanted, row in self._plan_of(step):
            rows[row].append((video, wanted))
        examples = []
        places = []
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

    def eval_batches(self, examples: int) -> list[EvalBatch]:
        """`examples` examples of one question each, as even over the kinds as the scenes allow, in as many
        batches as they need.
        """
        random = np.random.default_rng([self.seed, 2])
        asked: dict[str, int] = {}
        chosen: list[tuple[Example, str]] = []
        for index in range(examples):
            video = self._whole(index % len(self.shards))
            turns = self.turns(video)
            if not turns:
                continue
            order = random.permutation(len(turns))
            turn = turns[min(order, key=lambda i: asked.get(turns[i].kind, 0))]
            if self._size(video) + turn.size <= self.length:
                asked[turn.kind] = asked.get(turn.kind, 0) + 1
                chosen.append((self._example(video, [turn]), turn.kind))
        eval_batches = []
        while chosen:
            places = place([len(example.tokens) for example, _ in chosen], self.length, self.rows)
            taken = [
                (example, kind, found)
                for (example, kind), found in zip(chosen, places, strict=True)
                if found is not None
            ]
            answers = np.full((self.rows, self.length), -1, np.int32)
            for number, (example, _, (row, start)) in enumerate(taken):
                first, stop = example.answers[0]
                answers[row, start + first - 1 : start + stop - 1] = number
            batch = fill(
                [example for example, _, _ in taken], [found for _, _, found in taken], self.length, self.rows
            )
            eval_batches.append(EvalBatch(batch, answers, tuple(kind for _, kind, _ in taken)))
            chosen = [pair for pair, found in zip(chosen, places, strict=True) if found is None]
        return eval_batches

    def _row(self, planned: list[tuple[Piece, int]], random: np.random.Generator) -> list[Example]:
        """The examples of one row: turns are given up where they were planned too long, and added where there
        is room.

        What tells most about a video is asked last, so that the other answers must be found in its frames and
        not in an earlier answer.
        """
        pools = []
        for video, _ in planned:
            turns = self.turns(video)
            pool = [turns[index] for index in random.permutation(len(turns))]
            pools.append(sorted(pool, key=lambda turn: turn.kind not in self.favour))
        counts = [min(wanted, len(pool)) for (_, wanted), pool in zip(planned, pools, strict=True)]
        room = self.length - sum(self._size(video) for video, _ in planned)
        room -= sum(turn.size for pool, count in zip(pools, counts, strict=True) for turn in pool[:count])
        while room < 0:
            most = max(range(len(counts)), key=counts.__getitem__)
            counts[most] -= 1
            room += pools[most][counts[most]].size
        growing = list(range(len(counts)))
        while growing:
            index = min(growing, key=counts.__getitem__)
            pool = pools[index]
            after = counts[index]
            fits = next((i for i in range(after, len(pool)) if pool[i].size <= room), None)
            if fits is None:
                growing.remove(index)
                continue
            pool[after], pool[fits] = pool[fits], pool[after]
            counts[index] += 1
            room -= pool[after].size
        asked = [
            sorted(pool[:count], key=lambda turn: turn.kind in world.AUXILIARY)
            for pool, count in zip(pools, counts, strict=True)
        ]
        return [
            self._example(video, turns) for (video, _), turns in zip(planned, asked, strict=True) if turns
        ]

    def _example(self, video: Piece, turns: Sequence[Turn]) -> Example:
        codes, times = self.shards.video(video.video)
        seen = slice(video.first, video.first + video.count)
        woven = self.processor.videos([(codes[seen], times[seen])])
        parts = [(turn.question, turn.answer) for turn in turns]
        return self.processor.continued(
            woven, parts, vision_weight=self.vision_weight, question_weight=self.question_weight
        )

    def _turns(self, video: Piece) -> tuple[Turn, ...]:
        asked = self._ask(int(self.shards.seeds[video.video]), video.first, video.count)
        return tuple(
            Turn(q.kind, self.processor.question(q.text), self.processor.answer(q.answer)) for q in asked
        )

    def _whole(self, video: int) -> Piece:
        return Piece(video, 0, int(self.shards.lengths[video]))

    def _piece(self, video: int, most: float, random: np.random.Generator) -> Piece:
        """The whole video where it has at most `most` frames, otherwise a random piece of at most so many."""
        length = int(self.shards.lengths[video])
        if length <= most:
            return self._whole(video)
        count = int(random.integers(1, int(most) + 1))
        return Piece(video, int(random.integers(length - count + 1)), count)

    def _most_frames(self, step: int) -> float:
        if not self.grow_from or step >= self.grow_steps:
            return np.inf
        return self.grow_from + (int(self.shards.lengths.max()) - self.grow_from) * step / self.grow_steps

    def _frame_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all frames before each frame of the folder, and the number of each video's first
        frame.
        """
        lengths = self.shards.lengths
        grid = self.shards.info.grid
        sizes = np.full(int(lengths.sum()), grid[0] * grid[1] + 1)
        if self.processor.format.stamps:
            times, which = np.unique(self.shards.times, return_inverse=True)
            sizes += np.array([len(self.processor.stamp(time)) for time in times])[which]
        return np.cumsum([0, *sizes]), np.cumsum([0, *lengths])

    def _size(self, video: Piece) -> int:
        """Tokens of bos and these frames."""
        vocabulary = self.processor.vocabulary
        start = self._starts[video.video] + video.first
        frames = self._frame_ends[start + video.count] - self._frame_ends[start]
        return 1 + len(vocabulary.vision_start) + len(vocabulary.vision_end) + int(frames)

    def _plan_of(self, step: int) -> list[Planned]:
        with self._planning:
            while len(self._planned) <= step:
                self._planned.append(next(self._plans))
            return self._planned[step]

    def _plan(self) -> Iterator[list[Planned]]:
        """For each step the (video, turns wanted, row) of its examples; what finds no room waits for the next
        step.
        """
        epoch = 0
        step = 0
        waiting = list[Planned]()
        capacity = self.rows * self.length
        fresh: Iterator[tuple[int, int]] = iter(())
        random = np.random.default_rng([self.seed, 0, epoch])
        while True:
            waited = len(waiting)  # who waits once does not wait twice: an epoch stays an epoch
            while sum(size for _, _, size in waiting) < 1.1 * capacity:
                item = next(fresh, None)
                if item is None:
                    random = np.random.default_rng([self.seed, 0, epoch])
                    videos = random.permutation(len(self.shards))
                    wanted = random.integers(self.turns_min, self.turns_max + 1, len(videos))
                    fresh = iter(zip(videos.tolist(), wanted.tolist(), strict=True))
                    epoch += 1
                    continue
                video = self._piece(item[0], self._most_frames(step), random)
                # a short piece soon has no secrets left
                turns = item[1] if video == self._whole(item[0]) else min(item[1], video.count + 1)
                waiting.append((video, turns, min(self._size(video) + turns * self._share, self.length)))
            places = place([size for _, _, size in waiting], self.length, self.rows, before=waited)
            pairs = list(zip(waiting, places, strict=True))
            yield [(video, wanted, found[0]) for (video, wanted, _), found in pairs if found is not None]
            waiting = [item for item, found in pairs if found is None]
            step += 1
