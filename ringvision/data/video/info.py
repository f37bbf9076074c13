"""What is known of a video before it is decoded (VideoInfo), what it may ask for (Limits), and the errors.

Shared by the decoding child and the process that reads frames from it, so it imports nothing heavy.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from ringvision.errors import UserError

KINDS = {"missing", "empty", "truncated", "not-video", "refused", "limit", "damaged", "deadline", "crash"}


class VideoError(UserError):
    """A video that is not read: one line that names it, says what is wrong and what to do.

    message: made one line of printable characters. kind: one word of KINDS, for statistics. ValueError where
    they are of other types or the kind is not known: both may come from a decoding process that a video has
    taken over.
    """

    def __init__(self, message: str, kind: str = "damaged") -> None:
        if not isinstance(message, str) or not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of VideoError, or its message no text")
        super().__init__("".join(c if c.isprintable() else " " for c in message))
        self.kind = kind


class Unsteady(Exception):
    """A damaged video was decoded by several threads, and their result depends on which of them is first:
    decode it again with one thread, which always gives the same frames.
    """


class DecordUnsuited(Exception):
    """decord cannot be trusted with this video; PyAV reads it."""


@dataclass(frozen=True)
class VideoInfo:
    """A video's header.

    width, height: in pixels as shown, that is after the rotation. num_frames: what the container says, or
    else duration x fps. duration: in seconds. fps: the average. rotation: in degrees. Numbers are 0 where
    the header does not tell them.
    """

    path: str
    width: int
    height: int
    num_frames: int
    duration: float
    fps: float
    rotation: int
    codec: str
    container: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VideoInfo":
        """The reverse of `to_dict`. ValueError where names or types are not those of the fields."""
        if {name: type(value) for name, value in values.items()} != {
            field.name: field.type for field in fields(cls)
        }:
            raise ValueError(f"not a video's header: {sorted(values)}")
        return cls(**values)


@dataclass(frozen=True)
class Limits:
    """What a video may ask for. A file over a limit is refused before anything of it is decoded.

    max_side, max_pixels: of a frame. max_frames, max_duration (seconds): of the video. seconds_a_frame: the
    longest wait for one more sampled frame, after which the decoder is killed. memory: the address space of
    the decoding process, in bytes.
    """

    max_side: int = 8192
    max_pixels: int = 4096 * 4096
    max_frames: int = 2_000_000
    max_duration: float = 12 * 3600.0
    seconds_a_frame: float = 60.0
    memory: int = 4 << 30

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise UserError(f"Limits: {name} is {value}; give a number above 0")

    def check(self, name: str, info: VideoInfo) -> None:
        """VideoError, which calls the file `name`, where `info` is over a limit."""
        width = info.width
        height = info.height
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise VideoError(
                f"{name} is {width}x{height}; at most {self.max_side} pixels a side and "
                f"{self.max_pixels} in all are read: "
                "scale it down first",
                "limit",
            )
        if info.num_frames > self.max_frames:
            raise VideoError(
                f"{name} says it has {info.num_frames} frames; at most {self.max_frames} are read: "
                "cut it into parts",
                "limit",
            )
        if info.duration > self.max_duration:
            raise VideoError(
                f"{name} says it lasts {info.duration:.0f} seconds; at most {self.max_duration:.0f} "
                "are read: cut it into parts",
                "limit",
            )
