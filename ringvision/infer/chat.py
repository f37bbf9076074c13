"""A conversation with a text model: what a user says in, what the model answers out, piece by piece.

    messages ─chat template→ text ─tokenizer→ ids ─those not read yet→ DecodeBatch → ids of the answer → text

The whole conversation is written anew by the model's own template each time, as it was trained, and the row
that read the last one is taken back to where the two part: only what is new is read, in place. What a user
writes never becomes a special token, whatever it spells.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
from jax.sharding import Mesh

from ringvision.data.text.chat_template import ChatTemplate, load_chat_template
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.infer.decode_batch import DecodeBatch
from ringvision.infer.engine import Engine, shared_length
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.untrusted_files import read_object

MAX_TOKENS = 512
LEAST_ANSWER = 16
"""Tokens of the context that a conversation must leave for the next answer."""
SHORTEST_CACHE = 1024
"""Slots that a conversation has at first; they grow with it."""
GENERATION_FILE = "generation_config.json"
HELP = "/again answers anew, /new forgets everything, /quit ends"


class Chat:
    """A conversation that goes on. messages: what was said, `{"role", "content"}` each."""

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        template: ChatTemplate,
        system: str | None = None,
        *,
        stops: Collection[int] = (),
        sampler: Sampler | None = None,
        max_tokens: int = MAX_TOKENS,
        cache_dtype: str | None = None,
    ) -> None:
        """
        Args:
            model: the transformer.
            text: the text tokenizer that it was trained with.
            template: its chat template.
            system: what the model is told first; None leaves it to the template.
            stops: the ids that end an answer, besides the tokenizer's eos.
            sampler: how tokens are chosen (None: always the likeliest).
            max_tokens: the longest answer.
            cache_dtype: of keys and values (None: the weights'); see `Engine`.

        Raises:
            UserError: where the tokenizer has more ids than the model, or max_tokens is below 1.
        """
        if text.size > model.config.vocab_size:
            raise UserError(
                f"the text tokenizer has {text.size} ids, the model {model.config.vocab_size} rows; "
                "give the tokenizer it was trained with"
            )
        if max_tokens < 1:
            raise UserError(f"max_tokens {max_tokens} was given; expected at least 1")
        self.model = model
        self.text = text
        self.template = template
        self.stops = frozenset(stops) | ({text.eos} if text.eos is not None else set())
        self.sampler = sampler or Sampler()
        self.max_tokens = max_tokens
        self.engine = Engine(model, cache_dtype=cache_dtype)
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._opening)
        self._batch: DecodeBatch | None = None
        self._read: list[int] = []
        self._answers = 0

    def say(self, text: str) -> Iterator[str]:
        """Pieces of the answer to `text`, as they are generated. Both join the conversation when the
        iteration ends, however it ends; what the answer then is, is what was said of it.

        UserError, before anything is read, for an empty text and for a conversation that the model cannot
        read.
        """
        if not text.strip():
            raise UserError("nothing was said; write something to be answered")
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt = self._tokens(messages)
        room = self.model.config.max_length - len(prompt)
        if room < min(LEAST_ANSWER, self.max_tokens):
            raise UserError(
                f"the conversation has become {len(prompt)} tokens, and the model reads "
                f"{self.model.config.max_length} with the answer: "
                "say less, or begin a new conversation"
            )
        return self._answer(messages, prompt, min(self.max_tokens, room))

    def rewind(self) -> str | None:
        """Takes back the last thing said and its answer; -> what was said, None where nothing was."""
        said = [index for index, message in enumerate(self.messages) if message["role"] == "user"]
        if not said:
            return None
        text = self.messages[said[-1]]["content"]
        del self.messages[said[-1] :]
        return text

    def clear(self) -> None:
        """Begins a new conversation."""
        self.messages = list(self._opening)

    def _tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a conversation up to where the answer begins."""
        guard = self.text.guard(message["content"] for message in messages)
        protected = [
            {**message, "content": self.text.protect(message["content"], guard)} for message in messages
        ]
        return self.text.encode_marked(self.template.render(protected), guard)

    def _answer(self, messages: list[dict[str, str]], prompt: list[int], max_tokens: int) -> Iterator[str]:
        stream = self.text.stream()
        said = ""
        tokens = list(prompt)
        batch = self._prefill(prompt, max_tokens)
        # Another seed for each answer, or one that is asked for again would be the same.
        sampler = replace(self.sampler, seed=self.sampler.seed + self._answers)
        self._answers += 1
        batch.sample(0, sampler)
        try:
            for token in batch.decode(0, max_tokens, self.stops):
                tokens.append(token)
                if token in self.stops:
                    break
                if piece := stream.push(token):
                    said += piece
                    yield piece
            if piece := stream.finish():
                said += piece
                yield piece
        finally:
            self.messages = [*messages, {"role": "assistant", "content": said}]
            # Interrupted while the cache was being handed on, there is none: the next answer reads
            # everything.
            self._batch = None if batch.cache.k.is_deleted() else batch
            self._read = tokens[: batch.lengths[0]]

    def _prefill(self, prompt: list[int], max_tokens: int) -> DecodeBatch:
        """Rows of which the first has read the prompt, at the cost of what is new in it. What read the last
        one is taken out and extended in place; meanwhile another answer would read everything.
        """
        batch = self._batch
        self._batch = None
        same = 0
        if batch is not None:
            # The last token is always read: the logits after it are wanted.
            same = shared_length(np.array(self._read), np.array(prompt[:-1]))
            batch.truncate(0, same)
        slots = self.engine.slots_for(len(prompt) - same, generate=max_tokens)
        if batch is None:
            batch = DecodeBatch(self.engine, 1, max(slots, SHORTEST_CACHE), ids=(0, self.text.size))
        batch.reserve(slots)
        batch.read({0: np.array(prompt[same:], np.int32)})
        return batch


def load_chat(
    folder: str | os.PathLike[str],
    mesh: Mesh | None = None,
    *,
    system: str | None = None,
    sampler: Sampler | None = None,
    max_tokens: int = MAX_TOKENS,
    dtype: str | None = None,
    cache_dtype: str | None = None,
) -> Chat:
    """The chat with the model in a folder.

    Args:
        folder: the model folder, with a text tokenizer and a chat template.
        mesh: the devices (None: all of them on the axis `context`).
        system: what the model is told first; None leaves it to the template.
        sampler: how tokens are chosen (None: always the likeliest).
        max_tokens: the longest answer.
        dtype: see `load_model`.
        cache_dtype: of keys and values (None: the weights'); see `Engine`.

    Returns:
        A chat in which nothing was said yet.

    Raises:
        UserError: for a folder that lacks something, or whose parts do not fit together.
    """
    template = load_chat_template(folder)
    text = load_text_tokenizer(folder)
    model = load_model(folder, mesh, dtype=dtype)
    return Chat(
        model,
        text,
        template,
        system,
        stops=load_stops(folder),
        sampler=sampler,
        max_tokens=max_tokens,
        cache_dtype=cache_dtype,
    )


def load_stops(folder: str | os.PathLike[str]) -> frozenset[int]:
    """The ids that end an answer by a folder's generation_config.json; none where there is no such file.
    UserError where it is damaged.
    """
    path = Path(folder) / GENERATION_FILE
    if not path.is_file():
        return frozenset()
    found = read_object(path, "copy the model folder again").get("eos_token_id") or []
    tokens = found if isinstance(found, list) else [found]
    if not all(type(token) is int for token in tokens):
        raise UserError(
            f"{path} is damaged; expected an object whose eos_token_id is a number or a list of them"
        )
    return frozenset(tokens)


def converse(chat: Chat, lines: TextIO, output: TextIO) -> None:
    """Reads what is said from `lines`, one line each, and writes the answers to `output`, until the lines end
    or one is /quit.

    An interrupt (Ctrl-C) ends the answer that is on its way, not the conversation. A mistake is said in one
    line, and it goes on.
    """

    def write(text: str) -> None:
        output.write(text)
        output.flush()

    while True:
        try:
            write("> " if lines.isatty() else "")
            line = lines.readline()
        except KeyboardInterrupt:
            write(f"\n({HELP})\n")
            continue
        said: str | None = line.strip()
        if not line or said == "/quit":
            return
        if said == "/new":
            chat.clear()
            continue
        if said == "/again" and (said := chat.rewind()) is None:
            write(f"(nothing was said yet; {HELP})\n")
            continue
        if not said:
            continue
        if said.startswith("/"):
            write(f"(there is no {said.split()[0]}; {HELP})\n")
            continue
        try:
            for piece in chat.say(said):
                write(piece)
            write("\n")
        except KeyboardInterrupt:
            write("\n(interrupted)\n")
        except UserError as error:
            write(f"({error})\n")
