"""How a model is asked for pictures: in words before the vision, or by a question afterwards.

In: a model folder's config.json. Out: its `GenerationFormat`; None where it says nothing of that.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ringvision.errors import UserError
from ringvision.fields import fitted

ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class GenerationFormat:
    """What a model was taught; "generation" in its config.json.

    image: the text before a picture, and before the first frame of a film; holds {prompt} once. video: the
    text before a film of which there is the first frame already, where a model knows another one for that
    (None: the same). without: the text in the place of these with which guidance compares. question: for a
    model that was taught to say what it sees and not to draw what is said, what it is asked after each frame,
    to which the prompt is the answer; may hold {seconds}. candidates: of how many drafts a frame is then
    chosen. guidance: how strongly a prompt steers where nobody says. fps: frames of a film that make a
    second, where the config does not say it. size: a side of what is drawn, in pixels, where the video
    tokenizer takes any (None: the tokenizer's own).
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
        """UserError that names the fields that a form does not have, and those of another type."""
        return GenerationFormat(**fitted("a form of prompts", GenerationFormat, values))

    def before(self, prompt: str, begun: bool) -> str:
        """The text before a first frame, or before those of a film that has `begun`; "" for a model that is
        asked afterwards.
        """
        if self.question is not None:
            return ""
        return (self.video if begun and self.video is not None else self.image).replace(
            "{prompt}", prompt.strip()
        )

    def asked_at(self, moment: float) -> str:
        """The question after the frame at `moment` seconds."""
        seconds = "1 second" if int(moment) == 1 else f"{int(moment)} seconds"
        return (self.question or "").replace("{seconds}", seconds)


def generation_format_of(settings: Mapping[str, Any]) -> GenerationFormat | None:
    """What a model's config.json says under "generation"; None where it says nothing."""
    return GenerationFormat.from_dict(settings["generation"]) if settings.get("generation") else None


def answers(prompt: str) -> tuple[str, ...]:
    """A prompt as the answer to a question: as it is, and without its article."""
    said = prompt.strip()
    return tuple(dict.fromkeys((said, ARTICLE.sub("", said) or said)))
