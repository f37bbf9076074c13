"""The engine of a cluster: Ray Data streams jobs through decoding actors, a processor each, to encoding
actors, an accelerator each.

    jobs -> Decode (map_batches, one job) -> a row a frame -> Encode (map_batches, batch rows) -> a row a
    frame -> outcomes

Rows arrive in any order and say which video they are of; what is made of them is the same as on one machine.
Files, and the tokenizer's folder, must lie under the same paths on every machine. Imports ray when it is
asked to work, not before (extra `ray`).
"""

import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ringvision.data.video import Limits, Unsteady, VideoError
from ringvision.errors import UserError
from ringvision.tokenize.inputs import QUICKLY, SURELY, pictures
from ringvision.tokenize.job import FrameEncoder, Job, Outcome
from ringvision.tokenize.source import VideoSource

ROUND = 256
"""Jobs in one data set; the next ones' checksums are taken meanwhile."""
PIECE = 16
END = -1
TURN = 1 << 40
Rows = dict[str, np.ndarray]
"""Columns of n rows. number: int64 [n], the row of the manifest. order: int64 [n], the index of the frame in
its video (from TURN on where it is read again), END behind the last. time: float64 [n], the frame's, or
behind the last the order that would be next. error: [n], JSON or "". frame: uint8 [n, size, size, 3]; later
codes: int32 [n, h, w].
"""


class RayEngine:
    """`run` takes jobs and gives outcomes, in any order.

    Args:
        load: makes the encoder, in every encoding actor.
        size: pixels on a side of its frames.
        fps: frames a second that are read of a video.
        batch: frames that are encoded together.
        workers: videos that are decoded at once.
        limits: of what a video may take to decode; None: the usual ones.
        decoder: as ringvision.data.video's `sample` takes it.
        address: of a cluster; None: one is started on this machine.
        encoded: called with every number of frames that went through the encoder.
    """

    def __init__(
        self,
        load: Callable[[], FrameEncoder],
        *,
        size: int,
        fps: float,
        batch: int,
        workers: int,
        limits: Limits | None,
        decoder: str,
        address: str | None,
        encoded: Callable[[int], None],
    ) -> None:
        self.load = load
        self.size = size
        self.batch = batch
        self.workers = workers
        self.address = address
        self.encoded = encoded
        self.reading = {"fps": fps, "size": size, "batch": PIECE, "limits": limits, "decoder": decoder}

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Works on all jobs. Raises UserError where the cluster cannot be reached or ray is not installed."""
        ray = _ray()
        started = self._start(ray)
        rest = iter(jobs)

        def some() -> list[Job]:
            return list(itertools.islice(rest, ROUND))

        try:
            with ThreadPoolExecutor(1) as pool:
                now = some()
                while now:
                    following = pool.submit(some)
                    yield from self._round(ray, now)
                    now = following.result()
        finally:
            if started:
                ray.shutdown()

    def _start(self, ray: Any) -> bool:
        """Whether Ray was not yet running in this process."""
        if ray.is_initialized():
            return False
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", RuntimeWarning
                )  # jax's, that a fork is dangerous: what Ray forks becomes another program
                if self.address:
                    ray.init(address=self.address, **quiet)
                else:
                    ray.init(num_cpus=self.workers + 1, include_dashboard=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"the Ray cluster at {self.address}" if self.address else "Ray on this machine"
            raise UserError(
                f"{where} cannot be reached ({error}); check --ray-address, or use --engine local"
            ) from None
        return True

    def _round(self, ray: Any, jobs: list[Job]) -> Iterator[Outcome]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        resources = ray.cluster_resources()
        accelerators = int(resources.get("GPU", 0)) or int(resources.get("TPU", 0))
        claim: dict[str, Any] = {"num_cpus": 1}
        if accelerators:
            claim = {"num_gpus": 1} if resources.get("GPU") else {"resources": {"TPU": 1}}
        decoders = max(1, min(self.workers, len(jobs), int(resources.get("CPU", 1)) - (not accelerators)))
        items = [{"number": job.row.number, "source": json.dumps(asdict(job.source))} for job in jobs]
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Decode,
            fn_constructor_args=(self.reading,),
            batch_size=1,
            batch_format="numpy",
            num_cpus=1,
            concurrency=decoders,
        )
        coded = rows.map_batches(
            Encode,
            fn_constructor_args=(self.load,),
            batch_size=self.batch,
            batch_format="numpy",
            concurrency=max(1, accelerators),
            **claim,
        )
        videos = {job.row.number: VideoRows(job) for job in jobs}
        for batch in coded.iter_batches(batch_size=None, batch_format="numpy"):
            self.encoded(int((batch["order"] != END).sum()))
            for number in np.unique(batch["number"]).tolist():
                mine = batch["number"] == number
                videos[number].add({name: column[mine] for name, column in batch.items()})
                if (outcome := videos[number].outcome()) is not None:
                    yield outcome
                    del videos[number]
        assert not videos, f"rows of {len(videos)} videos got lost"


@dataclass(eq=False)
class VideoRows:
    """A video of which some rows have arrived; whole: the order behind its last frame, once its end has
    arrived.
    """

    job: Job
    parts: list[Rows] = field(default_factory=list)
    whole: int | None = None
    error: VideoError | None = None

    def add(self, rows: Rows) -> None:
        """Rows of this video, columns as in `Rows`: order int64 [n], time float64 [n], error [n], codes int32
        [n, h, w].
        """
        ends = rows["order"] == END
        for error, count in zip(rows["error"][ends].tolist(), rows["time"][ends].tolist()):
            self.whole = int(count)
            if error:
                self.error = VideoError(**json.loads(error))
        self.parts.append({name: rows[name][~ends] for name in ("order", "time", "codes")})

    def outcome(self) -> Outcome | None:
        """The outcome, once every row has arrived; None before."""
        if self.whole is None:
            return None
        if self.error is not None:
            return Outcome(self.job, error=self.error)
        arrived = np.concatenate([part["order"] for part in self.parts])
        turn, count = divmod(self.whole, TURN)
        order = np.argsort(arrived)[np.sort(arrived) >= turn * TURN]
        if len(order) < count:
            return None
        codes, times = (
            np.concatenate([part[name] for part in self.parts])[order] for name in ("codes", "time")
        )
        return Outcome(self.job, codes, times)


class Decode:
    """An actor: a job in, its frames out, a piece at a time, and a row that says how many frames it was or
    what went wrong.
    """

    def __init__(self, reading: dict[str, Any]) -> None:
        self.reading = reading

    def __call__(self, job: Rows) -> Iterator[Rows]:
        """One row of number [1] and source [1], JSON -> rows with frames uint8 [n, size, size, 3]."""
        number = int(job["number"][0])
        asked = json.loads(str(job["source"][0]))
        source = VideoSource(**asked | {"qa": tuple(map(tuple, asked["qa"]))})
        error = ""
        size = self.reading["size"]
        for turn, way in enumerate((QUICKLY, SURELY)):
            order = turn * TURN
            try:
                for piece in pictures(source, **self.reading, **way):
                    count = len(piece.frames)
                    yield self._rows(
                        number, np.arange(order, order + count), piece.times, [""] * count, piece.frames
                    )
                    order += count
            except Unsteady:
                continue
            except VideoError as failure:
                error = json.dumps({"message": str(failure), "kind": failure.kind})
            break
        end = np.array([END]), np.array([float(order)]), [error], np.zeros((1, size, size, 3), np.uint8)
        yield self._rows(number, *end)

    @staticmethod
    def _rows(number: int, order: np.ndarray, time: np.ndarray, error: list[str], frame: np.ndarray) -> Rows:
        numbers = np.full(len(order), number, np.int64)
        return {
            "number": numbers,
            "order": order.astype(np.int64),
            "time": time,
            "error": np.array(error, object),
            "frame": frame,
        }


class Encode:
    """An actor: rows with frames in, rows with codes out."""

    def __init__(self, load: Callable[[], FrameEncoder]) -> None:
        self.encoder = load()

    def __call__(self, rows: Rows) -> Rows:
        """The same n rows, with codes int32 [n, h, w] instead of frames uint8 [n, size, size, 3]."""
        frames = np.ascontiguousarray(rows.pop("frame"))
        return rows | {"codes": self.encoder.encode(frames)}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError(
            "--engine ray needs the package ray; install it with: pip install 'ringvision[ray]'"
        ) from None
    return ray
