"""How a model is prompted to generate images and videos: by a text before them, or by questions after each
frame.

In: a model folder's config.json. Out: its `GenerationFormat`; None where the config has none.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ringvision.data.times import time_words
from ringvision.errors import UserError
from ringvision.fields import fitted

ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class GenerationFormat:
    """How a model was trained to be prompted: "generation" in its config.json.

    image: the text before an image, and before the first frame of a video; holds {prompt} once. video: the
    text before a video whose first frame is given, where the model was trained on another one for that (None:
    as `image`). without: the text that takes their place in the stream that guidance compares with. question:
    for a model that was trained to describe what it sees and not to generate what is described; it is asked
    after each frame, and the prompt is scored as its answer. May hold {seconds}: the frame's time in words
    ("1 minute 5 seconds"). candidates: how many drafts such a model scores for each frame. guidance: its
    strength where the request does not say. fps: frames a second of a video, where the config does not say.
    size: side of an image in pixels, where the video tokenizer takes any size (None: the tokenizer's own).
    """

    image: str = "{prompt}"
    video: str | None = None
    without: str = ""
    question: str | None = None
    candidates: int = 64
    guidance: float = 5.0
    fps: float = 1.0
    size: int | None = None

    def __post_init__(self) -> None:
        for name in ("image", "video"):
            text = getattr(self, name)
            if text is not None and text.count("{prompt}") != 1:
                raise UserError(f"the {name} prompt's form {text!r} must hold {{prompt}} once")
        if self.candidates < 1:
            raise UserError(f"{self.candidates} candidates to choose a frame from; expected at least 1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "GenerationFormat":
        """UserError names the fields that a format does not have, and those of another type."""
        return GenerationFormat(**fitted("a form of prompts", GenerationFormat, values))

    def before(self, prompt: str, begun: bool) -> str:
        """The text before the frames. begun: whether the first frame is given. "" for a model that is asked
        after each frame.
        """
        if self.question is not None:
            return ""
        return (self.video if begun and self.video is not None else self.image).replace(
            "{prompt}", prompt.strip()
        )

    def question_at(self, moment: float) -> str:
        """The question after the frame at `moment` seconds."""
        return (self.question or "").replace("{seconds}", time_words(int(moment)))


def generation_format_of(settings: Mapping[str, Any]) -> GenerationFormat | None:
    """The format in a model's config.json, under "generation"; None where there is none."""
    return GenerationFormat.from_dict(settings["generation"]) if settings.get("generation") else None


def answers(prompt: str) -> tuple[str, ...]:
    """The answers that a prompt stands for: itself, and the same without its article."""
    answer = prompt.strip()
    return tuple(dict.fromkeys((answer, ARTICLE.sub("", answer) or answer)))
