"""The engine of one machine: some decoders ahead of one encoder, whose batches mix the frames of all videos
in progress.

    jobs -> decoder 1 ... decoder n -> pieces -> one batch being filled, one being encoded -> outcomes

A decoder is a thread that waits for a decoding process (ringvision.data.video); numpy, the encoder and the
pipes release Python's lock, so threads are enough. What is held at any time: a few pieces a decoder, two
batches, and the codes of the videos in progress.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ringvision.data.video import FrameBatch, Limits, Unsteady, VideoError
from ringvision.tokenize.inputs import QUICKLY, SURELY, pictures
from ringvision.tokenize.job import FrameEncoder, Job, Outcome

PIECE = 16
AHEAD = 2
PATIENCE = 0.2


@dataclass(eq=False)
class VideoInProgress:
    """A video of which some frames are decoded: the codes int32 [t, h, w] and times float64 [t] of its pieces
    so far.
    """

    job: Job
    codes: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    decoded: int = 0
    encoded: int = 0
    complete: bool = False

    def outcomes(self) -> Iterator[Outcome]:
        """One, once the last frame is encoded."""
        if self.complete and self.encoded == self.decoded:
            yield Outcome(self.job, np.concatenate(self.codes), np.concatenate(self.times))


Owners = list[tuple[VideoInProgress, int]]
"""Which videos the frames of a batch are of, in order, and how many of each."""
Piece = tuple[VideoInProgress, FrameBatch | VideoError | None]
"""A video with its next frames, with why there are no more, or with None: that was all."""


class LocalEngine:
    """`run` takes jobs and gives outcomes, in any order.

    Args:
        encoder: the tokenizer.
        fps: frames a second that are read of a video.
        batch: frames that are encoded together.
        workers: videos that are decoded at once.
        limits: of what a video may take to decode; None: the usual ones.
        decoder: as ringvision.data.video's `sample` takes it.
        encoded: called with every number of frames that went through the encoder.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        *,
        fps: float,
        batch: int,
        workers: int,
        limits: Limits | None,
        decoder: str,
        encoded: Callable[[int], None],
    ) -> None:
        self.encoder = encoder
        self.batch = batch
        self.workers = workers
        self.encoded = encoded
        self.reading = {
            "fps": fps,
            "size": encoder.size,
            "batch": PIECE,
            "limits": limits,
            "decoder": decoder,
        }

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Works on all jobs. Ending it early, by an error or by closing the generator, stops the decoders."""
        decoders = Decoders(iter(jobs), self.workers, self.reading)
        mixer = Mixer(self.batch, self.encoder.size)
        with ThreadPoolExecutor(1, thread_name_prefix="encoder") as executor:
            encoding: tuple[Future, Owners] | None = None
            try:
                for batch in mixer.batches(decoders.pieces()):
                    if isinstance(batch, Outcome):
                        yield batch
                        continue
                    frames, owners = batch
                    if encoding:
                        yield from self._take(*encoding)
                    encoding = executor.submit(self.encoder.encode, frames), owners
                if encoding:
                    yield from self._take(*encoding)
            finally:
                decoders.stop()

    def _take(self, future: Future, owners: Owners) -> Iterator[Outcome]:
        codes = future.result()
        start = 0
        self.encoded(len(codes))
        for video, count in owners:
            video.codes.append(codes[start : start + count])
            start = start + count
            video.encoded = video.encoded + count
            yield from video.outcomes()


class Mixer:
    """Fills batches uint8 [batch, size, size, 3] with the frames of whatever video has some."""

    def __init__(self, batch: int, size: int) -> None:
        self.shape = batch, size, size, 3

    def batches(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, Owners] | Outcome]:
        """Batches uint8 [n, size, size, 3], n = batch but for the last, each with the videos that its frames
        are of, and the outcomes that need no further encoding.
        """
        frames = np.empty(self.shape, np.uint8)
        filled = 0
        owners = list[tuple[VideoInProgress, int]]()
        for video, piece in pieces:
            if isinstance(piece, VideoError):
                yield Outcome(video.job, error=piece)
                continue
            if piece is None:
                video.complete = True
                yield from video.outcomes()
                continue
            video.times.append(piece.times)
            video.decoded += len(piece.frames)
            rest = piece.frames
            while len(rest):
                count = min(len(frames) - filled, len(rest))
                frames[filled : filled + count] = rest[:count]
                rest = rest[count:]
                owners.append((video, count))
                filled += count
                if filled == len(frames):
                    yield frames, owners
                    frames = np.empty(self.shape, np.uint8)
                    filled = 0
                    owners = []
        if filled:
            yield frames[:filled], owners


class Decoders:
    """Threads that turn jobs into pieces until there are no more jobs; each ends with None, or with an
    exception that it did not expect.
    """

    def __init__(self, jobs: Iterator[Job], number: int, reading: dict[str, Any]) -> None:
        self.jobs = jobs
        self.reading = reading
        self.queue: queue.Queue[Piece | BaseException | None] = queue.Queue(AHEAD * number)
        self.turn = threading.Lock()
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self._work, name=f"decoder-{index}", daemon=True)
            for index in range(number)
        ]
        for thread in self.threads:
            thread.start()

    def pieces(self) -> Iterator[Piece]:
        """Whatever comes, until all threads have ended."""
        for _ in self.threads:
            while (piece := self.queue.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece

    def stop(self) -> None:
        """Ends all threads, also those whose video is not at its end."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        try:
            while not self.stopped.is_set() and (job := self._next()) is not None:
                self._decode(job)
        except BaseException as error:  # a mistake of this program's: the consumer raises it
            self._put(error)
        else:
            self._put(None)

    def _next(self) -> Job | None:
        with self.turn:
            return next(self.jobs, None)

    def _decode(self, job: Job) -> None:
        """The quick way first; where that met a fault, once more from the beginning, in the way that always
        gives the same frames.
        """
        for way in (QUICKLY, SURELY):
            video = VideoInProgress(job)
            try:
                for batch in pictures(job.source, **self.reading, **way):
                    if not self._put((video, batch)):
                        return
                self._put((video, None))
            except VideoError as error:
                self._put((video, error))
            except Unsteady:
                continue
            return

    def _put(self, piece: Piece | BaseException | None) -> bool:
        """Waits until the queue has a free slot; False where nobody takes from it any more."""
        while not self.stopped.is_set():
            try:
                self.queue.put(piece, timeout=PATIENCE)
                return True
            except queue.Full:
                continue
        return False
