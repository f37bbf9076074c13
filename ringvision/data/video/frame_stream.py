"""One video stream by PyAV, as frames in display order with their times. Frames that no sample needs are
skipped.

In: a container and its stream, and the times that are sampled. Out: (seconds after the first frame, frame),
one after another. At the sampled times these are exactly the frames that decoding everything would give. Two
things save work:

- `jump` seeks to the last key frame that is shown no later than the next sample. A second handle on the
  file, which decodes nothing, finds the key frames.
- H.264 marks frames to which no other refers (about half of them, in a stream with B-frames). Such a frame is
  not decoded where no sample falls into the time for which it is shown. That time ends with the next frame in
  display order among the packets read ahead; a later packet can only make it end sooner.

Where a frame that had to come does not (a decoder begins later than its key frame, or guesses the display
order), the whole stream is decoded again from its start.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import av.error

from ringvision.data.video.info import Unsteady
from ringvision.data.video.times import TOLERANCE

WORTH = 24
"""Frames to skip that make a seek worthwhile: threads and reordering decode some frames in vain after it."""
MOST_STEPS = 4
"""Key frames that are tried for one seek."""
MOST_WANTED = 0.7
"""Samples for each frame of the video, above which looking for frames to skip does not pay."""
READ_AHEAD = 16
"""Packets. H.264 reorders frames by at most so many."""


class FrameStream:
    """Iterate over it for (seconds, frame); call `jump(seconds)` in between."""

    def __init__(
        self,
        opened: Callable[[], tuple[Any, Any]],
        wanted: tuple[float, float],
        *,
        threads: int,
        by_order: bool,
        usual_seconds: float,
        seeks: bool,
        steady: bool = False,
    ) -> None:
        """
        Args:
            opened: returns a new container and its stream.
            wanted: the time of the first sample in seconds, and samples a second.
            threads: of the decoder.
            by_order: whether the container keeps no display times, only the order of frames (AVI).
            usual_seconds: how long a frame is shown where nothing says.
            seeks: whether every packet has its display time, by which key frames can be found.
            steady: raise Unsteady at the first fault where several threads decode, and have the decoder
                report faults rather than conceal them.
        """
        self.steady = steady and threads > 1
        self.opened = opened
        self.threads = threads
        self.by_order = by_order
        self.usual_seconds = usual_seconds
        self.seeks = seeks
        self.start, self.fps = wanted
        self.zero: float | None = None  # the time of the first frame, in the container's seconds
        self.shown = 0.0  # when the last frame appeared, in seconds after the first one
        self.until = 0.0  # when it is replaced
        self.read = -math.inf  # the latest display time of any packet read, in ticks
        self.aimed = -math.inf  # the time of the last jump that was tried
        self.container: Any = None
        self.key_finder: tuple[Any, Any] | None = None  # the second handle: a container and its stream
        self.due: list[int] = []  # display times of frames that must still come, in ticks, increasing
        self.landed = -(1 << 62)  # the key frame of the last seek; what is shown before it is not due
        self._open()
        self.skips = (
            seeks and self.stream.codec_context.name == "h264" and self.fps * usual_seconds < MOST_WANTED
        )

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()
        if self.key_finder is not None:
            self.key_finder[0].close()

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        while (frame := self._next()) is not None:
            if frame.is_corrupt:
                self._fault()
            now = self._clock(frame)
            self.seeks &= now is not None
            if self.zero is None:
                self.zero = now or 0.0
                now = 0.0
                self.skips &= not frame.interlaced_frame  # of two fields, one might be left out
            else:
                now = self.until if now is None else now - self.zero
                if now <= self.shown:  # a stamp that goes back: shown one usual step later
                    now = self.shown + self.usual_seconds
                    self.seeks = False
                    self.skips = False
            self.shown = now
            self.until = now + (
                float(frame.duration * frame.time_base)
                if frame.duration and frame.time_base
                else self.usual_seconds
            )
            yield now, frame

    def jump(self, seconds: float) -> None:
        """Seeks to the last key frame at or before `seconds`, where that skips enough frames."""
        if (
            not self.seeks
            or self.zero is None
            or seconds - self.shown < WORTH * self.usual_seconds
            or seconds == self.aimed
        ):
            return
        self.aimed = seconds
        base = self.stream.time_base
        # A tick early, so that rounding cannot matter.
        wanted = math.floor((self.zero + seconds + TOLERANCE) / base) - 1
        aim = wanted
        for _ in range(MOST_STEPS):
            key = self._key_frame(aim)
            if key is None or (key[0] - self.read) * base < WORTH * self.usual_seconds:
                return
            if key[0] <= wanted:
                if not self._seek(aim, key[0], wanted):
                    self._restart()
                return
            aim = key[1] - 1

    def _open(self) -> None:
        self.container, self.stream = self.opened()
        self.stream.codec_context.thread_count = self.threads
        if self.steady:
            self.stream.codec_context.options = {"err_detect": "explode"}
        self.frames = self._decoded()

    def _clock(self, frame: Any) -> float | None:
        """When a frame is shown, in the container's seconds; for AVI, when it is decoded."""
        stamp = frame.dts if self.by_order else frame.pts
        return None if stamp is None else float(stamp * frame.time_base)

    def _next(self) -> Any:
        """The next frame. Where one that was due before it (or before the end) is missing, the whole stream
        is decoded again and the next frame of that is returned.
        """
        frame = next(self.frames, None)
        if self.due and (frame is None or frame.pts is None or frame.pts > self.due[0]):
            self._fault()
            self._restart()
            frame = next(self.frames, None)
        if frame is not None and self.due and frame.pts == self.due[0]:
            del self.due[0]
        return frame

    def _decoded(self) -> Iterator[Any]:
        """Decoded frames in display order. A packet that cannot be decoded is skipped, as players do."""
        for packet in self._packets():
            if packet.pts is not None:
                self.read = max(self.read, packet.pts)
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self._fault()
        try:
            yield from self.stream.decode(None)
        except av.error.EOFError:  # the last packet had already ended the stream
            return
        except av.error.FFmpegError:
            self._fault()

    def _fault(self) -> None:
        """Called where the video turns out to be damaged."""
        if self.steady:
            raise Unsteady

    def _packets(self) -> Iterator[Any]:
        """Packets in decoding order; before each one the decoder is set to skip it or not."""
        packets = self.container.demux(self.stream)
        ahead = deque[Any]()
        reading = True
        while reading or ahead:
            try:
                packet = next(packets, None) if reading else None
            except av.error.FFmpegError:  # reading stops here; what came before is kept
                self._fault()
                packet = None
            reading = packet is not None
            if packet is not None:
                ahead.append(packet)
            if ahead and (not reading or not self.skips or len(ahead) > READ_AHEAD):
                self._set_skipping(ahead)
                yield ahead.popleft()

    def _set_skipping(self, ahead: deque[Any]) -> None:
        """Has the decoder skip the first of the packets `ahead` where no sample needs its frame. Nothing is
        skipped before the first frame has come.
        """
        packet = ahead[0]
        context = self.stream.codec_context
        if packet.size == 0 or not self.skips:
            wanted = True
        elif packet.pts is None or sum(packet.pts == other.pts for other in ahead) > 1:
            wanted = True
            self.skips = False
            self.seeks = False
        else:
            following = min(
                (other.pts for other in ahead if other.pts is not None and other.pts > packet.pts),
                default=None,
            )
            wanted = self.zero is None or self._wanted(packet.pts, following)
        checked = (self.skips or self.steady) and wanted and packet.size > 0 and self.zero is not None
        if checked and packet.pts is not None and packet.pts >= self.landed:
            bisect.insort(self.due, packet.pts)
        level = "DEFAULT" if wanted else "NONREF"
        if context.skip_frame != level:
            context.skip_frame = level

    def _wanted(self, pts: int, following: int | None) -> bool:
        """Whether a sample falls into the time for which a frame is shown: from tick `pts` to tick
        `following` at the latest.
        """
        if following is None:
            return True
        base = float(self.stream.time_base)
        slack = TOLERANCE + 1e-6
        since, until = (tick * base - (self.zero or 0.0) for tick in (pts, following))
        k = max(0, math.ceil((since - self.start - slack) * self.fps))
        return self.start + k / self.fps <= until

    def _key_frame(self, aim: int) -> tuple[int, int] | None:
        """-> when the key frame that a seek to `aim` finds is shown, and when it is decoded, in ticks; None
        where packets do not say so.
        """
        self.key_finder = self.key_finder or self.opened()
        container, stream = self.key_finder
        try:
            container.seek(aim, stream=stream)
            packet = next(container.demux(stream), None)
        except av.error.FFmpegError:
            return None
        if packet is None or packet.pts is None or not packet.is_keyframe:
            return None
        return packet.pts, packet.pts if packet.dts is None else packet.dts

    def _seek(self, aim: int, key: int, wanted: int) -> bool:
        """Seeks, and drops frames that come before the key frame, since they may refer to frames that were
        skipped. -> whether the key frame came as expected.
        """
        self.read = -math.inf
        self.landed = key
        self.due.clear()
        try:
            self.container.seek(aim, stream=self.stream)
        except av.error.FFmpegError:
            return False
        frames = self._decoded()
        for frame in frames:
            if frame.pts is None or frame.is_corrupt or frame.pts > wanted:
                return False
            if frame.pts >= key:
                self.frames = _before(frame, frames)
                return True
        return False

    def _restart(self) -> None:
        """Opens the file anew and decodes everything up to the frame it had come to."""
        self.container.close()
        self.seeks = self.skips = False
        self.due.clear()
        self._open()
        zero = self.zero or 0.0
        for frame in self.frames:
            now = self._clock(frame)
            if now is not None and now - zero > self.shown:
                self.frames = _before(frame, self.frames)
                return


def _before(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
