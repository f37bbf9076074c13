"""A text model that is given a text once and continues it: long prompts, short answers, nothing remembered.

    prompt, opening ─chat template, where the folder has one→ ids ─Engine→ ids of the answer → text

The opening are the first words of the answer, which the model goes on from, as RULER gives them. A model
without a chat template, which only continues text, gets the prompt and the opening as they are.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from ringvision.data.text.chat_template import TEMPLATE_FILE, ChatTemplate, load_chat_template
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.settings import read_settings
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.infer.chat import load_stops
from ringvision.infer.engine import Engine
from ringvision.infer.model import Model, load_model
from ringvision.infer.scheduler import DecodeRequest, Scheduler


class Completer(Protocol):
    """What is evaluated: anything that measures a prompt in its own tokens and continues it."""

    def tokens(self, prompt: str, opening: str = "") -> np.ndarray: ...

    def complete(self, tokens: np.ndarray, max_tokens: int) -> str: ...


class TextModel:
    """A model and its text tokenizer; `load_text_model` makes one. max_length: tokens that it reads."""

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        template: ChatTemplate | None = None,
        *,
        stops: Collection[int] = (),
        cache_dtype: str | None = None,
    ) -> None:
        """
        Args:
            model: the transformer.
            text: the text tokenizer that it was trained with.
            template: its chat template (None: it continues text as it is).
            stops: the ids that end an answer, besides the tokenizer's eos.
            cache_dtype: of keys and values (None: the weights'); see `Engine`.

        Raises:
            UserError: the tokenizer has more ids than the model.
        """
        if text.size > model.config.vocab_size:
            raise UserError(
                f"the text tokenizer has {text.size} ids, the model {model.config.vocab_size} rows; "
                "give the tokenizer it was trained with"
            )
        self.model = model
        self.text = text
        self.template = template
        self.stops = frozenset(stops) | ({text.eos} if text.eos is not None else set())
        self.max_length = model.config.max_length
        self._scheduler = Scheduler(Engine(model, cache_dtype=cache_dtype))

    @property
    def hash(self) -> str:
        """Tells this model from another."""
        return self.model.hash

    def tokens(self, prompt: str, opening: str = "") -> np.ndarray:
        """int32 [n]: all that is read before the answer is generated. What a prompt spells never becomes a
        special token.
        """
        if self.template is None:
            whole = f"{prompt}\n{opening}" if opening else prompt
            ids = ([] if self.text.bos is None else [self.text.bos]) + self.text.encode(whole)
        else:
            guard = self.text.guard([prompt, opening])
            said = [{"role": "user", "content": self.text.protect(prompt, guard)}]
            written = self.template.render(said) + self.text.protect(opening, guard)
            ids = self.text.encode_marked(written, guard)
        return np.array(ids, np.int32)

    def complete(self, tokens: np.ndarray, max_tokens: int) -> str:
        """The likeliest continuation of tokens, int32 [n], of at most max_tokens ids, as text."""
        request = DecodeRequest(tokens, max_tokens=max_tokens, ids=(0, self.text.size), stop=self.stops)
        (stream,) = self._scheduler.submit([request])
        return self.text.decode([token for token in stream if token not in self.stops])


def load_text_model(
    folder: str | os.PathLike[str],
    mesh: Mesh | None = None,
    *,
    dtype: str | None = None,
    cache_dtype: str | None = None,
) -> TextModel:
    """The text model in a folder.

    Args:
        folder: the model folder, with a text tokenizer; its chat template is used where it has one.
        mesh: the devices (None: all of them on the axis `context`).
        dtype: see `load_model`.
        cache_dtype: of keys and values (None: the weights'); see `Engine`.

    Returns:
        The model, ready to be asked.

    Raises:
        UserError: for a folder that lacks something, or whose parts do not fit together.
    """
    text = load_text_tokenizer(folder)
    has_template = (Path(folder) / TEMPLATE_FILE).is_file() or bool(
        read_settings(folder).get("chat_template")
    )
    template = load_chat_template(folder) if has_template else None
    model = load_model(folder, mesh, dtype=dtype)
    return TextModel(model, text, template, stops=load_stops(folder), cache_dtype=cache_dtype)
