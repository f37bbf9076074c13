"""A library of videos to shards of codes: what there is to do, and where every result goes. Who decodes and
encodes is an engine's affair (job.py is what the two exchange).

    OUT/manifest.sqlite                            a row for every input
    OUT/videos-train.array_record-00000 ...        the records of rows 0 to shard_size - 1, and so on, in the
                                                   order of the rows
    OUT/dataset_info.json, features.json           for tensorflow-datasets
    OUT/.work/                                     records whose shard is not yet in place (ready.py)

A shard is a function of its rows: which of them failed and what the others hold. It is written under another
name, renamed and then noted, so a run that is killed anywhere and started again ends with the same bytes as
one that was not. A shard whose rows change (a file changed, a failed one was tried again, inputs were added)
is written anew; what has not changed in it is copied.
"""

import hashlib
import itertools
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.tokenized import FolderMetadata, Format, TokenizedVideo
from ringvision.data.video import VideoError
from ringvision.errors import UserError
from ringvision.tokenize.inputs import content, stamp
from ringvision.tokenize.job import FrameEncoder, Job, Outcome
from ringvision.tokenize.manifest import Manifest, ManifestRow, Shard, asked_of
from ringvision.tokenize.ready import ReadyRecords, RecordKey, disk_error, record_key
from ringvision.tokenize.source import VideoSource

READ_AHEAD = 4
"""Files whose checksums are taken at once, ahead of the decoders."""


class Library:
    """The rows of one run and the shards they go to. `jobs` may be read from any thread, `settle` called from
    another.

    Args:
        manifest: the folder's, open.
        sources: what this run works on; the manifest has a row for each.
        format: of the shards.
        shard_size: rows to a shard.
        fps: frames a second that are read of a video.
        encoder: the tokenizer.
        retry_failed: whether rows that failed before are tried again.
        settled: called with each of the run's rows once, when its outcome is known (a done one's shard may
            come into place later), and whether it took work in this run.

    Raises:
        UserError: where the folder cannot be written to.
    """

    def __init__(
        self,
        manifest: Manifest,
        sources: Iterable[VideoSource],
        format: Format,
        *,
        shard_size: int,
        fps: float,
        encoder: FrameEncoder,
        retry_failed: bool,
        settled: Callable[[ManifestRow, bool], None],
    ) -> None:
        self.manifest = manifest
        self.format = format
        self.encoder = encoder
        self.settled = settled
        self.shard_size = shard_size
        self.fps = fps
        self.retry_failed = retry_failed
        self._ready = ReadyRecords(manifest.folder / ".work")
        self._sources = {source.name: source for source in sources}
        self._turn = threading.RLock()
        self._leaders: dict[RecordKey, int] = {}
        self._followers: dict[int, list[int]] = {}
        self._waiting: dict[int, list[int]] = {}
        self._postponed: list[Job] = []
        self._rows = {row.number: row for row in manifest.rows()}
        self._shards = {shard.shard: shard for shard in manifest.shards()}
        self._check_shards()
        self._owners: dict[tuple[int | None, int | None], int] = {}
        for row in self._rows.values():
            if row.status == "done":
                self._owners.setdefault((row.shard, row.record), row.number)
        self._open = Counter(self._home(row) for row in self._rows.values() if row.source in self._sources)

    # ------------------------------------------------------------------------------------ what there is to do

    def jobs(self) -> Iterator[Job]:
        """What has to be decoded, in the order of the rows. Checksums are taken on the way, a few files
        ahead.
        """
        for row, source, error in self._examined():
            with self._turn:
                job = Job(self._begin(row.number), source) if self._classify(row, source, error) else None
            if job is not None:
                yield job

    def postponed(self) -> list[Job]:
        """Sources whose bytes are those of another that failed in this run: to be tried themselves, under
        their own names.
        """
        with self._turn:
            jobs = self._postponed
            self._postponed = []
            return [replace(job, row=self._begin(job.row.number)) for job in jobs]

    def _examined(self) -> Iterator[tuple[ManifestRow, VideoSource, VideoError | None]]:
        """This run's rows with their content as it is now, or why it cannot be told. Rows of other runs only
        lead or follow.
        """

        def examine(
            row: ManifestRow, source: VideoSource
        ) -> tuple[ManifestRow, VideoSource, VideoError | None]:
            try:
                size, changed = stamp(source)
                if row.sha256 is None or (size, changed) != (row.bytes, row.changed):
                    sha256, size, changed = content(source)
                    return replace(row, sha256=sha256, bytes=size, changed=changed), source, None
            except VideoError as error:
                return row, source, error
            return row, source, None

        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="checksum") as pool:
            ahead: deque[Future] = deque()
            rows = iter(list(self._rows.values()))
            try:
                while True:
                    for row in itertools.islice(rows, 2 * READ_AHEAD - len(ahead)):
                        if row.source in self._sources:
                            ahead.append(pool.submit(examine, row, self._sources[row.source]))
                        elif self._in_place(row):
                            with self._turn:
                                self._leaders.setdefault(record_key(row), row.number)
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _classify(self, now: ManifestRow, source: VideoSource, error: VideoError | None) -> bool:
        """Whether a row has to be worked on; settles it where not."""
        before = self._rows[now.number]
        if error is not None:
            if before.status == "failed" and before.message == str(error) and not self.retry_failed:
                self._close(before, worked=False)
            else:
                self._fail(self._begin(now.number), error)
            return False
        same = (now.sha256, now.bytes, now.changed) == (before.sha256, before.bytes, before.changed)
        row = before if same else self._changed(before, now)
        leader = self._leaders.get(record_key(row))
        if row.status == "failed" and not self.retry_failed:
            self._close(row, worked=False)
        elif leader is not None:
            self._come_after(row, leader)
        elif self._in_place(row) or self._ready.find(row):
            self._leaders[record_key(row)] = row.number
            self._close(row, worked=False)
        else:
            self._leaders[record_key(row)] = row.number
            return True
        return False

    def _changed(self, before: ManifestRow, now: ManifestRow) -> ManifestRow:
        """Notes the content that a row has now; where it had another, nothing of what was done for that
        counts.
        """
        values = {"sha256": now.sha256, "bytes": now.bytes, "changed": now.changed}
        if now.sha256 != before.sha256:
            nothing = {
                "status": "pending",
                "kind": None,
                "message": None,
                "shard": None,
                "record": None,
                "frames": None,
                "seconds": None,
            }
            values |= nothing
        return self._write(before, **values)

    def _in_place(self, row: ManifestRow) -> bool:
        """Whether a row's own record is in its shard."""
        return row.status == "done" and self._owners.get((row.shard, row.record)) == row.number

    def _come_after(self, row: ManifestRow, leader: int) -> None:
        """A row with the content of an earlier one shares its record, once it is known that there will be
        one.
        """
        if self._rows[leader].status == "done" or leader in self._ready:
            self._follow(row.number, leader)
        else:
            self._waiting.setdefault(leader, []).append(row.number)

    def _follow(self, number: int, leader: int) -> None:
        row = self._rows[leader]
        if row.status == "done":
            self._close(self._write(self._rows[number], **_like(row)), worked=False)
        else:
            self._followers.setdefault(leader, []).append(number)
            self._close(self._rows[number], worked=False)

    def _begin(self, number: int) -> ManifestRow:
        row = self._rows[number]
        return self._write(row, status="pending", kind=None, message=None, attempts=row.attempts + 1)

    # ---------------------------------------------------------------------------------------- what came of it

    def settle(self, outcome: Outcome) -> None:
        """Takes what an engine made of a job: the record is kept ready, and the shard written where this was
        the last that it waited for.
        """
        with self._turn:
            row = self._rows[outcome.job.row.number]
            number = outcome.job.row.number
            if outcome.error is not None:
                self._fail(row, outcome.error)
                return
            leader = self._leaders.setdefault(record_key(row), number)
            if leader != number:
                self._come_after(row, leader)
                return
            assert outcome.codes is not None
            assert outcome.times is not None
            source = outcome.job.source
            codes = np.asarray(outcome.codes).astype(
                np.uint16 if self.encoder.num_codes <= 1 << 16 else np.uint32
            )
            made = self.fps, self.encoder.size, self.encoder.hash, source.caption, source.qa
            self._ready.put(
                row,
                self.format.encode(TokenizedVideo(row.source, str(row.sha256), codes, outcome.times, *made)),
                len(codes),
            )
            for follower in self._waiting.pop(number, []):
                self._follow(follower, number)
            self._close(row)

    def _fail(self, row: ManifestRow, error: VideoError) -> None:
        if self._leaders.get(record_key(row)) == row.number:
            del self._leaders[record_key(row)]
        nothing = {"shard": None, "record": None, "frames": None, "seconds": None}
        row = self._write(row, status="failed", kind=error.kind, message=str(error), **nothing)
        for number in self._waiting.pop(row.number, []):
            self._postponed.append(Job(self._rows[number], self._sources[self._rows[number].source]))
        self._close(row)

    def _write(self, row: ManifestRow, **columns: object) -> ManifestRow:
        self._rows[row.number] = row = self.manifest.write(row, **columns)
        return row

    def _close(self, row: ManifestRow, worked: bool = True) -> None:
        """One row less that its shard waits for."""
        ready = row.number in self._ready
        row = replace(row, status="done", frames=self._ready.frames(row.number)) if ready else row
        self.settled(row, worked)
        shard = self._home(row)
        self._open[shard] -= 1
        if not self._open[shard]:
            self._write_shard(shard)

    def finish(self) -> list[ManifestRow]:
        """Fills the gaps that other runs left, and writes what tensorflow-datasets reads first. Returns this
        run's rows.
        """
        with self._turn:
            for shard in range(max(map(self._home, self._rows.values()), default=-1) + 1):
                if shard not in self._shards:
                    self._write_shard(shard)
            lengths = [shard.records for _, shard in sorted(self._shards.items())]
            metadata = FolderMetadata(lengths, self.encoder.grid, self.encoder.num_codes)
            self.format.write_metadata(self.manifest.folder, metadata)
            return [row for row in self._rows.values() if row.source in self._sources]

    # --------------------------------------------------------------------------------------------- the shards

    def _home(self, row: ManifestRow) -> int:
        return row.number // self.shard_size

    def _path(self, shard: int) -> Path:
        return self.manifest.folder / self.format.file_name(shard)

    def _write_shard(self, shard: int) -> None:
        """Puts a shard in place as its rows now want it, and turns them done."""
        here = range(shard * self.shard_size, (shard + 1) * self.shard_size)
        numbers = [
            number
            for number in here
            if number in self._ready or (number in self._rows and self._in_place(self._rows[number]))
        ]
        ready = [number for number in numbers if number in self._ready]
        noted = self._shards.get(shard)
        if noted is not None and not ready and len(numbers) == noted.records:
            return
        kept = [number for number in numbers if number not in self._ready]
        records = dict(
            zip(
                kept,
                self.format.read(self._path(shard), [int(self._rows[number].record or 0) for number in kept])
                if kept
                else [],
            )
        )
        records |= {number: self._ready.record(number) for number in ready}
        unfinished = self._ready.folder / f"shard-{shard:05d}"
        path = self._path(shard)
        try:
            self.format.write(unfinished, [records[number] for number in numbers])
            status = _synced(unfinished)
            with open(unfinished, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.replace(unfinished, path)
            _synced(path.parent)
        except OSError as error:
            raise disk_error(path, error) from None
        self._note(Shard(shard, path.name, len(numbers), sha256, status.st_size, status.st_mtime_ns), numbers)
        for number in ready:
            self._ready.remove(number)

    def _note(self, shard: Shard, numbers: list[int]) -> None:
        """In one transaction: the shard, its rows, and the rows that share their records. Rows whose record
        has gone are pending again.
        """
        with self.manifest.transaction():
            self.manifest.commit(shard)
            self._shards[shard.shard] = shard
            gone = {"status": "pending", "shard": None, "record": None}
            shared = [
                row
                for row in self._rows.values()
                if row.status == "done" and row.shard == shard.shard and row.number not in numbers
            ]
            written = {}
            for record, number in enumerate(numbers):
                row = self._rows[number]
                values = {"status": "done", "shard": shard.shard, "record": record}
                if number in self._ready:
                    frames = self._ready.frames(number)
                    values |= {"kind": None, "message": None, "frames": frames, "seconds": frames / self.fps}
                row = self._write(row, **values)
                written[record_key(row)] = row
                self._owners[row.shard, row.record] = number
                for follower in self._followers.pop(number, []):
                    self._write(self._rows[follower], **_like(row))
            for row in shared:
                self._write(row, **(_like(written[record_key(row)]) if record_key(row) in written else gone))

    def _check_shards(self) -> None:
        """Shards that are not as they were noted: a run was killed between renaming and noting, or somebody
        changed them. Records that can still be read of them are kept ready, and they are made anew.
        """
        for shard in list(self._shards.values()):
            path = self._path(shard.shard)
            try:
                status = os.stat(path)
                if (status.st_size, status.st_mtime_ns) == (shard.bytes, shard.changed):
                    continue
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                        continue
                examples = [(record, self.format.decode(record)) for record in self.format.read(path)]
            except (OSError, UserError):
                examples = []
            del self._shards[shard.shard]
            self.manifest.forget(shard.shard)
            self._rows = {row.number: row for row in self.manifest.rows()}
            rows = {row.source: row for row in self._rows.values()}
            for record, example in examples:
                row = rows.get(example.source)
                same = (
                    row is not None
                    and row.sha256 == example.sha256
                    and row.asked == self._asked(example, row)
                )
                if row is not None and same and example.tokenizer == self.encoder.hash:
                    self._ready.put(row, record, len(example.codes))
        for number in [number for number in self._ready if self._rows[number].source in self._sources]:
            self._ready.forget(number)  # found again if the source has not changed since

    @staticmethod
    def _asked(example: TokenizedVideo, row: ManifestRow) -> str:
        start, end, _, _, *variant = json.loads(row.asked)
        source = VideoSource(example.source, start=start, end=end, variant=variant[0] if variant else 0)
        return asked_of(replace(source, caption=example.caption, qa=example.qa))


def _like(row: ManifestRow) -> dict[str, Any]:
    names = "status", "kind", "message", "shard", "record", "frames", "seconds"
    return {name: getattr(row, name) for name in names}


def _synced(path: Path) -> os.stat_result:
    """Brings a file, or a folder's names, to the disk; -> its status."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle)
    finally:
        os.close(handle)
