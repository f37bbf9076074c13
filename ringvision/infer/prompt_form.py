"""How a model is asked for pictures: in words before the vision, in LWM's words, or by a question afterwards.

In: a model folder's config.json. Out: its `PromptForm`; None where nothing is known of it.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ringvision.errors import UserError

ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)
LWM_ASKS = "You are a helpful assistant. USER: Generate {} of {{prompt}} ASSISTANT:"


@dataclass(frozen=True)
class PromptForm:
    """What a model was taught; "generation" in its config.json.

    image: the text before a picture, and before the first frame of a film; holds {prompt} once. video: the text before a film of which
    there is the first frame already, where a model knows another one for that (None: the same). question: for a model that was taught to
    say what it sees and not to draw what is said, what it is asked after each frame, to which the prompt is the answer; may hold {seconds}.
    candidates: of how many drafts a frame is then chosen. fps: frames of a film that make a second, where the config does not say it.
    """

    image: str = "{prompt}"
    video: str | None = None
    question: str | None = None
    candidates: int = 64
    fps: float = 1.0

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
    def from_dict(values: Mapping[str, Any]) -> "PromptForm":
        """UserError that names the fields that a form does not have."""
        if unknown := sorted(set(values) - set(PromptForm.__dataclass_fields__)):
            raise UserError(f"a form of prompts has no field {', '.join(unknown)}; it has {', '.join(PromptForm.__dataclass_fields__)}")
        return PromptForm(**values)

    def before(self, prompt: str, begun: bool) -> str:
        """The text before a first frame, or before those of a film that has `begun`; "" for a model that is asked afterwards."""
        if self.question is not None:
            return ""
        return (self.video if begun and self.video is not None else self.image).replace("{prompt}", prompt.strip())

    def asked_at(self, moment: float) -> str:
        """The question after the frame at `moment` seconds."""
        seconds = "1 second" if int(moment) == 1 else f"{int(moment)} seconds"
        return (self.question or "").replace("{seconds}", seconds)


LWM_FORM = PromptForm(LWM_ASKS.format("an image"), LWM_ASKS.format("a video"), fps=4.0)
"""Of LargeWorldModel's models: the first frame is asked for as an image, the rest as a video that begins with it."""


def form_of(settings: Mapping[str, Any]) -> PromptForm | None:
    """What a model's config.json says: its "generation", or LWM's form where it came from there; None where it says nothing."""
    if settings.get("generation"):
        return PromptForm.from_dict(settings["generation"])
    source = settings.get("source") or {}
    return LWM_FORM if str(source.get("family", "")).lower().startswith("lwm") else None


def answers(prompt: str) -> tuple[str, ...]:
    """A prompt as the answer to a question: as it is, and without its article."""
    said = prompt.strip()
    return tuple(dict.fromkeys((said, ARTICLE.sub("", said) or said)))
