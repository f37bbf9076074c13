"""Video files -> sampled square frames, by decord or PyAV. Runs in the decoding child only (child.py).

`Video(path, ...).info` is the header; `frames(...)` yields uint8 [size, size, 3] for sample 0, 1, ... Both
decoders choose frames by the container's time stamps, give the same frames for the same times, and skip what
lies between distant samples by seeking to a key frame. PyAV reads every kind of file. decord is not used
where it is known to give wrong frames without an error: edit lists that hide frames, streams that do not
begin with a key frame, several video tracks, AVI with B-frames, time stamps that do not increase.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import av
import av.error
import numpy as np

from ringvision.data.video.frame_stream import FrameStream
from ringvision.data.video.info import DecordUnsuited, Limits, VideoError, VideoInfo
from ringvision.data.video.mp4 import Track, video_track
from ringvision.data.video.square import square
from ringvision.data.video.times import TOLERANCE, end_slack, sample_times, shown_at

DECORD_READS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"}
DECORD_BYTES = 512 << 20
DECORD_OPENS = {"mov", "matroska", "avi", "flv"}
SEEKS_BY_TIME = {"mov", "matroska"}


class Video:
    """One opened file: its header, and its frames."""

    def __init__(self, path: str, name: str, demuxer: str, limits: Limits) -> None:
        """Opens the file, reads its header and checks it against the limits.

        Args:
            path: the file.
            name: what messages call it.
            demuxer: FFmpeg's name of its kind, which `container.identify` gave.
            limits: what it may ask for.

        Raises:
            VideoError: the file is damaged, holds no video, or is over a limit.
        """
        self.path = path
        self.name = name
        self.demuxer = demuxer
        self.limits = limits
        # FFmpeg checks this before each allocation, since the size of frames may change within a video.
        # It counts whole blocks of up to 64 pixels, so the bound leaves 64 more pixels to each side.
        self.bounds = {"max_pixels": str(limits.max_pixels + 128 * limits.max_side)}
        self.track = (video_track(path) if demuxer == "mov" else None) or Track()
        if (
            max(self.track.width, self.track.height) > limits.max_side
            or self.track.width * self.track.height > limits.max_pixels
        ):
            limits.check(
                name, VideoInfo(path, self.track.width, self.track.height, 0, 0.0, 0.0, 0, "", demuxer)
            )
        with self._open() as container:
            stream = self._stream(container)
            self.several = len(container.streams.video) > 1
            self.info = self._info(container, stream)
            limits.check(name, self.info)
            self.begins_with_key = self._begins_with_key(container, stream)

    def _open(self) -> Any:
        # PyAV 19 dropped this setting: it escapes what is not UTF-8 anyway.
        tolerant: dict[str, Any] = (
            {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        )
        try:
            return av.open(
                self.path,
                format=self.demuxer,
                options={"protocol_whitelist": "file", **self.bounds},
                **tolerant,
            )
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise VideoError(
                f"{self.name} cannot be opened as {self.demuxer} ({reason}); it is cut short or "
                "damaged: copy or download it again"
            ) from None

    def _stream(self, container: Any) -> Any:
        for stream in container.streams.video:
            if not stream.disposition & av.stream.Disposition.attached_pic:
                if stream.codec_context is not None:
                    stream.thread_type = "AUTO"
                    stream.codec_context.options = dict(self.bounds)
                return stream
        others = " and ".join(sorted({stream.type for stream in container.streams}))
        if not others:
            raise VideoError(f"{self.name} holds no frames; record or download it again")
        raise VideoError(
            f"{self.name} has no video in it, only {others}; give a file with a video track", "not-video"
        )

    def _info(self, container: Any, stream: Any) -> VideoInfo:
        duration = 0.0
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif container.duration:
            duration = container.duration / av.time_base
            # Matroska's Duration is the last time stamp, even where the first one is above 0.
            if self.demuxer == "matroska" and stream.start_time:
                duration -= float(stream.start_time * stream.time_base)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        frames = stream.frames or round(duration * fps)
        context = stream.codec_context
        if context is None:
            raise VideoError(
                f"{self.name}: its codec is not known here, or it is damaged; re-encode it: ffmpeg -i "
                "IN -c:v libx264 OUT.mp4"
            )
        width = context.width
        height = context.height
        if width <= 0 or height <= 0:
            raise VideoError(
                f"{self.name} does not say how large its pictures are; it is damaged, or holds no picture",
                "damaged",
            )
        if self.track.rotation in (90, 270):
            width, height = height, width
        codec = context.codec.canonical_name if context.codec else context.name
        return VideoInfo(
            self.path,
            width,
            height,
            frames,
            max(duration, 0.0),
            fps,
            self.track.rotation,
            codec,
            self.demuxer,
        )

    def _begins_with_key(self, container: Any, stream: Any) -> bool:
        for packet in container.demux(stream):
            if packet.size:
                return bool(packet.is_keyframe)
        raise VideoError(f"{self.name} holds no frames; record or download it again", "damaged")

    def suits_decord(self) -> bool:
        """Whether to use decord: it reads the file correctly, and all frames together fit into DECORD_BYTES.

        PyAV is for what is long or large. decord may decode ahead of its reader to the end of the video (1 GB
        for 50 seconds of 360p), and is slower at skipping frames (10 minutes of 360p at 1 fps take 28 s of
        processor time; PyAV takes 12).
        """
        return (
            self.info.num_frames * self.info.width * self.info.height * 3 <= DECORD_BYTES
            and self.demuxer in DECORD_OPENS
            and self.info.codec in DECORD_READS
            and not self.several
            and not self.track.hides_frames
            and self.begins_with_key
        )

    def frames(
        self,
        decoder: str,
        fps: float,
        size: int,
        start: float,
        end: float,
        first: int,
        threads: int,
        steady: bool = False,
    ) -> Iterator[np.ndarray]:
        """Decodes samples first, first + 1, ... of which sample k is the frame at start + k/fps seconds.

        Args:
            decoder: "decord" or "av".
            fps: samples a second.
            size: side of a frame, in pixels.
            start, end: the part of the video to read, in seconds; `end` may be infinite.
            first: the number of the first sample to yield.
            threads: of the decoder.
            steady: whether the frames must be the same every time, also for a damaged video. PyAV alone
                can tell that they might not be.

        Returns:
            uint8 [size, size, 3], one after another.

        Raises:
            DecordUnsuited: decord's account of the file cannot be trusted.
            VideoError: nothing can be decoded, or the video is longer than its limits allow.
            Unsteady: steady frames are wanted, several threads decode, and the video has faults.
        """
        if decoder == "decord":
            yield from self._by_decord(fps, size, start, end, first, threads)
        else:
            yield from self._by_av(fps, size, start, end, first, threads, steady)

    def _by_decord(
        self, fps: float, size: int, start: float, end: float, first: int, threads: int
    ) -> Iterator[np.ndarray]:
        import decord

        starts, length = self._starts()
        try:
            reader = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=threads)
            decord_starts = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)[:, 0]
        except Exception as error:  # whatever decord cannot open, PyAV may
            raise DecordUnsuited(str(error)) from None
        # decord keeps time stamps in float32 (2e-7 of the time); containers round them to milliseconds.
        tolerance = 2e-3 + 2e-7 * starts  # (n,)
        if (
            len(decord_starts) != len(starts)
            or not (np.abs(decord_starts - decord_starts[0] - starts) < tolerance).all()
        ):
            raise DecordUnsuited("it sees other time stamps")
        self._check_length(len(starts), length)
        times = sample_times(min(length, end) - start, fps) + start if start < length else np.zeros(0)
        last = -1
        picture = np.zeros(0, np.uint8)
        for index in shown_at(starts, times).tolist()[first:]:
            if index != last:
                try:
                    picture = square(reader[index].asnumpy(), size)
                    last = index
                except Exception as error:
                    raise DecordUnsuited(str(error)) from None
            yield picture

    def _starts(self) -> tuple[np.ndarray, float]:
        """-> when each frame is shown (float64 [n] seconds, increasing from 0), and when the last one ends.
        Read from the packets; nothing is decoded.

        DecordUnsuited where time stamps are missing or equal, and where frames that follow a key frame are
        shown before it (open groups of pictures, usual for H.265 and MPEG-4): decord counts those wrongly
        after a seek.
        """
        stamps = []
        key = -(1 << 62)
        last = -(1 << 62)
        ends = 0
        with self._open() as container:
            stream = self._stream(container)
            for packet in container.demux(stream):
                stamp = packet.dts if self.demuxer == "avi" else packet.pts
                if packet.size == 0:
                    continue
                if stamp is None or stamp < key:
                    raise DecordUnsuited(
                        "no time stamps" if stamp is None else "groups of pictures that refer to one another"
                    )
                key = stamp if packet.is_keyframe else key
                if stamp > last:
                    last = stamp
                    ends = packet.duration or 0
                stamps.append(stamp)
            base = float(stream.time_base)
        ordered = np.sort(np.asarray(stamps))
        if len(ordered) == 0 or (np.diff(ordered) <= 0).any():
            raise DecordUnsuited("time stamps that do not increase")
        starts = (ordered - ordered[0]) * base
        return starts, float(starts[-1]) + (ends * base or self._usual_seconds())

    def _by_av(
        self, fps: float, size: int, start: float, end: float, first: int, threads: int, steady: bool
    ) -> Iterator[np.ndarray]:
        k = first
        end = end - end_slack(fps)
        shown: Any = None  # the frame on the screen until the next one
        stream = FrameStream(
            self._opened,
            (start, fps),
            threads=threads,
            by_order=self.demuxer == "avi",
            usual_seconds=self._usual_seconds(),
            seeks=self.demuxer in SEEKS_BY_TIME,
            steady=steady,
        )
        with stream:
            for count, (now, frame) in enumerate(stream, 1):
                self._check_length(count, now)
                if shown is not None:
                    picture = None
                    while start + k / fps < min(now - TOLERANCE, end):
                        picture = _rgb(shown, size) if picture is None else picture
                        yield picture
                        k += 1
                shown = frame
                if start + k / fps >= end:
                    return
                stream.jump(start + k / fps)
            if shown is None:
                raise VideoError(
                    f"{self.name}: none of its frames can be decoded; it is damaged: copy or download it "
                    "again"
                )
            self._check_length(0, stream.until)
            picture = None
            while start + k / fps < min(stream.until - end_slack(fps), end) or (k == 0 and start == 0):
                picture = _rgb(shown, size) if picture is None else picture
                yield picture
                k += 1

    def _opened(self) -> tuple[Any, Any]:
        container = self._open()
        return container, self._stream(container)

    def _usual_seconds(self) -> float:
        """How long a frame is shown where the file does not say."""
        return 1 / self.info.fps if self.info.fps else 0.04

    def _check_length(self, frames: int, duration: float) -> None:
        """Holds what was really found to the limits, since the header may lie."""
        if frames > self.limits.max_frames or duration > self.limits.max_duration:
            self.limits.check(self.name, replace(self.info, num_frames=frames, duration=duration))


def _rgb(frame: Any, size: int) -> np.ndarray:
    """A frame of PyAV's, rotated as the file says -> uint8 [size, size, 3]."""
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return square(np.rot90(picture, turns) if turns else picture, size)
