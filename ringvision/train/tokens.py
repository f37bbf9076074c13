"""Which tokens the words and codes of a run become: its text tokenizer, its vocabulary, its stream's form.

    TrainConfig  --token_recipe-->  TokenRecipe (plain values)  --open-->  PromptProcessor

A run that starts from a model has that model's vocabulary and stream. Another one is made of the text model's
pieces and the video tokenizer's codes; where no source has codes, of pieces alone. All of it is checked
against the sources before any of them is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringvision import shipped
from ringvision.config import TrainConfig
from ringvision.data.sources import SourceConfig, VideosInfo
from ringvision.data.stream import PromptProcessor, StreamFormat
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.data.text.settings import OWN_FILE
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.model_folder import read_config
from ringvision.video_tokenizer import Identity, identify
from ringvision.vocabulary import Vocabulary


@dataclass(frozen=True)
class TokenRecipe:
    """All that a PromptProcessor is made of, so that another process can make one alike.

    text_model: a sentencepiece file of ours, or a model folder.
    """

    text_model: str
    vocabulary: Vocabulary
    format: StreamFormat

    def open(self) -> PromptProcessor:
        """The processor. UserError where the text model is missing or damaged."""
        return PromptProcessor(open_text_tokenizer(self.text_model), self.vocabulary, self.format)


def open_text_tokenizer(path: str) -> TextTokenizer:
    """A sentencepiece file of ours, or whatever text tokenizer a model folder holds. UserError where there is
    none.
    """
    return load_text_tokenizer(path) if Path(path).is_dir() else LosslessTokenizer(path)


def token_recipe(config: TrainConfig) -> tuple[TokenRecipe, list[str]]:
    """What a run's words and codes become, and what a user should know of that, a sentence each.

    UserError where sources, text model, video tokenizer and model do not fit together.
    """
    data = config.data
    settings = {} if config.init_from is None else read_config(config.init_from)
    text_model = data.text_model or config.init_from
    assert text_model is not None, "TrainConfig asks for one of the two"
    text = open_text_tokenizer(text_model)
    videos, where = _vision_of(tuple(source for source in data.sources if source.weight > 0))
    tokenizer, notices = _video_tokenizer(config, settings, videos is not None)
    if videos is not None and tokenizer is not None and videos.tokenizer != tokenizer.hash:
        raise UserError(
            f"{where} was tokenized by another tokenizer ({videos.tokenizer[:8]}) than "
            f"{_tokenizer_name(config)} ({tokenizer.hash[:8]}); give data.tokenizer the one that made it, or "
            "tokenize it again"
        )
    num_codes = tokenizer.num_codes if tokenizer else videos.num_codes if videos else 0
    if settings.get("vocabulary"):
        vocabulary = Vocabulary.from_dict(settings["vocabulary"])
        _check_inherited(config, vocabulary, text, num_codes)
    else:
        vocabulary = _new_vocabulary(config, text, num_codes)
    if vocabulary.text_alone and config.trainable == "new_rows":
        raise UserError(
            f"trainable is new_rows and {config.init_from} has no rows for codes; say lora or all, or add "
            f"them with `ringvision import {config.init_from} DEST --add-vision TOKENIZER`"
        )
    stream = StreamFormat.from_dict(settings["stream"]) if settings.get("stream") else StreamFormat()
    return TokenRecipe(text_model, vocabulary, stream), notices


def _vision_of(sources: tuple[SourceConfig, ...]) -> tuple[VideosInfo | None, str]:
    """What the videos of all sources that are read share, and which is the first that has some. UserError
    where two differ.
    """
    first: VideosInfo | None = None
    where = ""
    for source in sources:
        if not source.weight:
            continue
        found = source.vision()
        if found is None:
            continue
        name = str(getattr(source, "folder", type(source).__name__))
        if first is None:
            first = found
            where = name
        for what, one, other in (
            ("tokenizer", found.tokenizer[:8], first.tokenizer[:8]),
            ("number of codes", found.num_codes, first.num_codes),
            ("grid of codes", found.grid, first.grid),
        ):
            if one != other:
                raise UserError(
                    f"{name} has another {what} ({one}) than {where} ({other}); tokenize both with one "
                    "tokenizer, or give one of them no weight (--data.sources.N.weight 0)"
                )
    return first, where


def _tokenizer_name(config: TrainConfig) -> str:
    return config.data.tokenizer or f"that of {config.init_from}"


def _video_tokenizer(
    config: TrainConfig, settings: Mapping[str, Any], needed: bool
) -> tuple[Identity | None, list[str]]:
    """The video tokenizer of the run, where one is named and it is at hand, and what is to be said of it."""
    given = config.data.tokenizer
    if given is None and not settings.get("video_tokenizer"):
        if needed:
            raise UserError(
                "data.tokenizer is None and the data has videos; name the video tokenizer that made their "
                "codes"
            )
        return None, []
    try:
        folder = shipped.tokenizer_of(Path(config.init_from or "."), settings, given)
    except UserError:
        if not needed:
            return None, []
        return None, [f"no video tokenizer {_tokenizer_name(config)} is at hand: codes are not checked"]
    return identify(folder), []


def _check_inherited(
    config: TrainConfig, vocabulary: Vocabulary, text: TextTokenizer, num_codes: int
) -> None:
    """UserError where the vocabulary of the model that a run starts from is not that of its data."""
    model = config.init_from
    wrong = []
    if vocabulary.size != config.transformer.vocab_size:
        wrong.append(f"{vocabulary.size} rows and model.vocab_size is {config.transformer.vocab_size}")
    if vocabulary.stamps != config.transformer.stamp_rows:
        wrong.append(f"{vocabulary.stamps} stamps and stamp_rows is {config.transformer.stamp_rows}")
    if num_codes not in (0, vocabulary.num_codes):
        wrong.append(f"{vocabulary.num_codes} codes and the data {num_codes}")
    if text.size > vocabulary.text_size:
        wrong.append(f"{vocabulary.text_size} text pieces and the text model {text.size}")
    if vocabulary.eos != text.eos:
        wrong.append(f"the end of a text is {vocabulary.eos} and the text model's {text.eos}")
    own = Path(str(model), OWN_FILE)
    if isinstance(text, LosslessTokenizer) and own.is_file() and own.read_bytes() != text.serialized:
        wrong.append("another text model")
    if wrong:
        raise UserError(
            f"{model} has another vocabulary than this run: {'; '.join(wrong)}; use its text model, its "
            "tokenizer and its vocab_size"
        )


def _new_vocabulary(config: TrainConfig, text: TextTokenizer, num_codes: int) -> Vocabulary:
    """The vocabulary of a run that does not inherit one; rows of the model that no token needs belong to the
    vision part, or to text where that is all there is.
    """
    rows = config.transformer.vocab_size
    if num_codes and config.init_from is not None:
        raise UserError(
            f"{config.init_from} has no vocabulary for codes and the data has videos; give it one with "
            f"`ringvision import {config.init_from} DEST --add-vision TOKENIZER`"
        )
    if num_codes and not isinstance(text, LosslessTokenizer):
        raise UserError(
            f"{config.data.text_model} holds another project's text tokenizer, which has no marks for "
            "videos; start from a model to which vision was added (init_from)"
        )
    needed = text.size + (num_codes + 2 if num_codes else 0)
    if rows < needed:
        codes = f" and the data {num_codes} codes" if num_codes else ""
        raise UserError(
            f"model.vocab_size is {rows}; {config.data.text_model or config.init_from} has {text.size} "
            f"pieces{codes}, so give at least {needed}"
        )
    if text.eos is None:
        raise UserError(
            f"{config.data.text_model or config.init_from}: its text tokenizer names no end of text "
            "(eos_token); say it in tokenizer_config.json"
        )
    bos = text.eos if text.bos is None else text.bos
    if not num_codes:
        return Vocabulary.of_text(rows, bos, text.eos)
    assert isinstance(text, LosslessTokenizer)
    return Vocabulary(
        text.size, num_codes, bos, text.eos, text.vision_start, text.vision_end, rows - text.size
    )
