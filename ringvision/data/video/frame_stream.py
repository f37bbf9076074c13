"""One video stream by PyAV as frames in the order of showing, with times; passes over what nobody wants to
see.

A container and its stream go in; (seconds after the first frame, frame) come out, one after another. Whoever
reads has told which times are wanted, and of those gets the very frames that decoding everything gives. Two
things are saved:

- `jump` goes on from the last key frame that is shown no later than the next wanted time. A second handle on
  the file, which decodes nothing, finds where the key frames are.
- H.264 says which frames no other refers to (about half of them, in a stream with B-frames). Those that are
  on the screen at no wanted time are not decoded. When a frame is replaced is known from the packets read
  ahead: it may be sooner than these say, never later.

Where a frame that had to come does not (a decoder that begins later than its key frame, or guesses the order
of showing), the stream is decoded again from the start, and whole.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import av.error

from ringvision.data.video.info import Unsteady
from ringvision.data.video.times import TOLERANCE

WORTH = (
    24  # frames passed over that pay for a jump: threads and reordering hold some that are decoded in vain
)
MOST_STEPS = 4
MOST_WANTED = 0.7  # of all frames, where it pays to ask of each one whether it is
READ_AHEAD = 16  # packets; frames of H.264 are moved by at most so many


class FrameStream:
    """Iterate for (seconds, frame); `jump(seconds)` in between."""

    def __init__(
        self,
        opened: Callable[[], tuple[Any, Any]],
        wanted: tuple[float, float],
        *,
        threads: int,
        by_order: bool,
        usual: float,
        seeks: bool,
        steady: bool = False,
    ) -> None:
        """`opened` gives a new container and its stream. `wanted`: the first wanted time, in seconds, and how
        many come in each second.

        `by_order`: the container keeps no time of showing (AVI), only the order. `usual`: seconds a frame is
        shown where nothing says. `seeks`: whether every packet says when it is shown, and key frames can be
        found by that. `steady`: with more than one thread the first fault raises Unsteady, and the decoder is
        to hide none.
        """
        self.steady = steady and threads > 1
        self.opened = opened
        self.threads = threads
        self.by_order = by_order
        self.usual = usual
        self.seeks = seeks
        self.start, self.fps = wanted
        self.zero: float | None = None
        self.shown = self.until = 0.0
        self.read = -math.inf
        self.aimed = -math.inf
        self.container: Any = None
        self.scout: tuple[Any, Any] | None = None
        self.due: list[int] = []
        self.landed = -(1 << 62)
        self._open()
        self.skips = seeks and self.stream.codec_context.name == "h264" and self.fps * usual < MOST_WANTED

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()
        if self.scout is not None:
            self.scout[0].close()

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
                    now = self.shown + self.usual
                    self.seeks = False
                    self.skips = False
            self.shown = now
            self.until = now + (
                float(frame.duration * frame.time_base) if frame.duration and frame.time_base else self.usual
            )
            yield now, frame

    def jump(self, seconds: float) -> None:
        """Goes on from the last key frame at or before `seconds`, where that passes over frames enough."""
        if (
            not self.seeks
            or self.zero is None
            or seconds - self.shown < WORTH * self.usual
            or seconds == self.aimed
        ):
            return
        self.aimed = seconds
        base = self.stream.time_base
        wanted = (
            math.floor((self.zero + seconds + TOLERANCE) / base) - 1
        )  # a tick early, so that rounding cannot matter
        aim = wanted
        for _ in range(MOST_STEPS):
            key = self._key_frame(aim)
            if key is None or (key[0] - self.read) * base < WORTH * self.usual:
                return
            if key[0] <= wanted:
                if not self._land(aim, key[0], wanted):
                    self._again()
                return
            aim = key[1] - 1

    def _open(self) -> None:
        self.container, self.stream = self.opened()
        self.stream.codec_context.thread_count = self.threads
        if self.steady:
            self.stream.codec_context.options = {"err_detect": "explode"}
        self.frames = self._decoded()

    def _clock(self, frame: Any) -> float | None:
        """When a frame is shown, in the container's seconds; of AVI, when it was decoded."""
        stamp = frame.dts if self.by_order else frame.pts
        return None if stamp is None else float(stamp * frame.time_base)

    def _next(self) -> Any:
        """The next frame; where one that was due before it (or before the end) is missing, the next of the
        whole stream.
        """
        frame = next(self.frames, None)
        if self.due and (frame is None or frame.pts is None or frame.pts > self.due[0]):
            self._fault()
            self._again()
            frame = next(self.frames, None)
        if frame is not None and self.due and frame.pts == self.due[0]:
            del self.due[0]
        return frame

    def _decoded(self) -> Iterator[Any]:
        """Decoded frames in the order of showing; a packet that cannot be decoded is passed over, as players
        do.
        """
        for packet in self._packets():
            if packet.pts is not None:
                self.read = max(self.read, packet.pts)
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self._fault()
        try:
            yield from self.stream.decode(None)
        except av.error.EOFError:  # its packets ended with one that said so
            return
        except av.error.FFmpegError:
            self._fault()

    def _fault(self) -> None:
        if self.steady:
            raise Unsteady

    def _packets(self) -> Iterator[Any]:
        """Packets in the order of decoding, the decoder told before each one whether it may pass over it."""
        packets = self.container.demux(self.stream)
        ahead = deque[Any]()
        reading = True
        while reading or ahead:
            try:
                packet = next(packets, None) if reading else None
            except av.error.FFmpegError:  # reading stops here; what came before stands
                self._fault()
                packet = None
            reading = packet is not None
            if packet is not None:
                ahead.append(packet)
            if ahead and (not reading or not self.skips or len(ahead) > READ_AHEAD):
                self._tell(ahead)
                yield ahead.popleft()

    def _tell(self, ahead: deque[Any]) -> None:
        """Whether the first packet `ahead` is of a frame that is wanted; all are until the first one is
        out.
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
        watched = (self.skips or self.steady) and wanted and packet.size > 0 and self.zero is not None
        if watched and packet.pts is not None and packet.pts >= self.landed:
            bisect.insort(self.due, packet.pts)
        level = "DEFAULT" if wanted else "NONREF"
        if context.skip_frame != level:
            context.skip_frame = level

    def _wanted(self, pts: int, following: int | None) -> bool:
        """Whether a frame that is shown from tick `pts` until `following` at the latest is on the screen at a
        wanted time.
        """
        if following is None:
            return True
        base = float(self.stream.time_base)
        slack = TOLERANCE + 1e-6
        since, until = (tick * base - (self.zero or 0.0) for tick in (pts, following))
        k = max(0, math.ceil((since - self.start - slack) * self.fps))
        return self.start + k / self.fps <= until

    def _key_frame(self, aim: int) -> tuple[int, int] | None:
        """When the key frame that a seek to `aim` finds is shown and decoded, in ticks; None where that
        cannot be told.
        """
        self.scout = self.scout or self.opened()
        container, stream = self.scout
        try:
            container.seek(aim, stream=stream)
            packet = next(container.demux(stream), None)
        except av.error.FFmpegError:
            return None
        if packet is None or packet.pts is None or not packet.is_keyframe:
            return None
        return packet.pts, packet.pts if packet.dts is None else packet.dts

    def _land(self, aim: int, key: int, wanted: int) -> bool:
        """Seeks, and drops what is decoded before the key frame, which may refer to what was passed over;
        whether the rest is right.
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

    def _again(self) -> None:
        """Opens the file anew and decodes up to where it was."""
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
