"""Options that several commands share: the config, the model, the tokenizer, sampling, limits of a video."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from ringvision import shipped
from ringvision.cli.parsing import COUNT, NUMBER, POSITIVE, REST, WHOLE, Options, choice, option

if TYPE_CHECKING:
    from ringvision.data.video import Limits
    from ringvision.infer.sampler import Sampler

Model = Annotated[str | None, option("a model folder", "DIR", default="the shipped one")]
Tokenizer = Annotated[
    str | None, option("one of tokenizers/ or a folder", "NAME|DIR", default="the shipped one")
]
ConfigFile = Annotated[
    str, Positional, option("a Python file that sets `config`, or the name of one in configs/", "CONFIG")
]
Overrides = Annotated[
    tuple[str, ...],
    Positional,
    REST,
    option(
        "fields of the config and their values, such as --optimizer.lr 1e-3; CONFIG --help shows all",
        "OVERRIDE ...",
    ),
]
CacheDtype = Annotated[
    str | None,
    choice("float32", "bfloat16", "float16", "int8"),
    option("type of what is kept of every token that was read; int8 is the smallest", default="the weights'"),
]
FramesASecond = Annotated[float, POSITIVE, option("frames to look at in each second")]
MaxTokens = Annotated[int, COUNT, option("length of the longest answer, in tokens")]


def tokenizer_folder(name: str | None) -> Path:
    """The folder of the video tokenizer of this name or path; the shipped one for None.

    Raises:
        UserError: where there is none.
    """
    return shipped.tokenizer(name) if name else shipped.default_tokenizer()


@dataclasses.dataclass(frozen=True)
class SamplerOptions(Options):
    """How each token is chosen; `make` gives the sampler."""

    temperature: Annotated[float, NUMBER, option("0 takes the likeliest token")] = 0.0
    top_k: Annotated[int, WHOLE, option("sample from the N likeliest tokens only; 0 for all")] = 0
    top_p: Annotated[float, NUMBER, option("sample from the fewest tokens that reach this probability")] = 1.0
    seed: Annotated[int, WHOLE, option("of the random numbers")] = 0

    def make(self) -> "Sampler":
        """Raises UserError for a value out of its range."""
        from ringvision.infer.sampler import Sampler

        return Sampler(**dataclasses.asdict(self))


Sampling = Annotated[SamplerOptions, option("How each token is chosen.")]


@dataclasses.dataclass(frozen=True)
class LimitOptions(Options):
    """What a video may ask for; `make` gives the limits."""

    max_side: Annotated[int | None, COUNT, option("pixels of its longer side")] = None
    max_pixels: Annotated[int | None, COUNT, option("pixels of a frame")] = None
    max_frames: Annotated[int | None, COUNT, option("frames")] = None
    max_duration: Annotated[float | None, POSITIVE, option("seconds")] = None
    seconds_a_frame: Annotated[float | None, POSITIVE, option("the longest wait for a frame, in seconds")] = (
        None
    )
    memory: Annotated[int | None, COUNT, option("bytes of address space of the process that decodes")] = None

    def make(self) -> "Limits | None":
        """The limits of which some were given; None where none was."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if not given:
            return None
        from ringvision.data.video import Limits

        return Limits(**given)


VideoLimits = Annotated[
    LimitOptions,
    option("What a video may ask for; a video beyond a limit is refused before it is decoded."),
]
