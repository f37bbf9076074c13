"""Conversations as something to train on: what the assistant says counts, what it is told does not.

[{"role": "user", "content": "what?"}, {"role": "assistant", "content": "this"}]
  --QuestionForm-->  bos USER: what? ASSISTANT: this eos           as the run's stream asks about videos
  --TemplateForm-->  <|im_start|>user\\nwhat?<|im_end|> ...         as the chat template of a model writes it
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ringvision.data.sources.base import BadRecord
from ringvision.data.stream import Example, PromptProcessor
from ringvision.data.text.chat_template import load_chat_template
from ringvision.errors import UserError

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]


def checked_messages(where: str, messages: Sequence[Any]) -> list[dict[str, str]]:
    """Messages of a record, each of role and content alone.

    Args:
        where: of the record, for messages to people.
        messages: {"role": "system", "user" or "assistant", "content": text} each.

    Returns:
        The same up to the last one of an assistant: nothing can be learned of what follows.

    Raises:
        BadRecord: a message is no such object.
    """
    checked = []
    for number, message in enumerate(messages, 1):
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, Mapping) else ("", None)
        )
        if role not in ROLES or not isinstance(content, str):
            raise BadRecord(
                f"{where}: message {number} is no {{role: {', '.join(ROLES)}, content: text}}; correct or "
                "remove it"
            )
        checked.append({"role": role, "content": content})
    while checked and checked[-1]["role"] != "assistant":
        checked.pop()
    return checked


class QuestionForm:
    """Turns of question and answer, in the words that the run asks about videos. What the system says stands
    before the first question.
    """

    def __init__(self, processor: PromptProcessor) -> None:
        self._processor = processor

    def example(self, where: str, messages: Sequence[Message]) -> Example:
        """A conversation as tokens.

        Args:
            where: of the record, for messages to people.
            messages: what `checked_messages` gave.

        Returns:
            Tokens, and loss on each answer and its eos, 1 a token.

        Raises:
            BadRecord: an answer has no question, or the stream takes one question alone.
        """
        turns = []
        asked = list[str]()
        for number, message in enumerate(messages, 1):
            if message["role"] != "assistant":
                asked.append(message["content"])
                continue
            if not asked:
                raise BadRecord(f"{where}: message {number} answers no question; correct or remove it")
            turns.append(("\n".join(asked), message["content"]))
            asked = []
        try:
            made = self._processor.example([], turns)
        except UserError as error:
            raise BadRecord(f"{where}: {error}") from None
        return replace(made, loss_mask=(made.loss_mask > 0).astype(np.float32))


class TemplateForm:
    """Conversations as a model's own chat template writes them.

    Args:
        processor: whose text tokenizer is that model's.
        folder: of the model.

    Raises:
        UserError: the folder has no chat template.
    """

    def __init__(self, processor: PromptProcessor, folder: str | os.PathLike[str]) -> None:
        self._text = processor.text
        self._template = load_chat_template(folder)

    def example(self, where: str, messages: Sequence[Message]) -> Example:
        """A conversation as tokens.

        Args:
            where: of the record, for messages to people.
            messages: what `checked_messages` gave.

        Returns:
            Tokens, and loss on what the assistant says and the end of its turn, 1 a token.

        Raises:
            BadRecord: the template refuses these messages, or writes the beginning of a conversation in
                another way once it goes on, so that nobody knows where an answer begins.
        """
        try:
            guard = self._text.guard(message["content"] for message in messages)
            tokens = self._tokens(messages, guard)
            loss_mask = np.zeros(len(tokens), np.float32)
            for number, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                prompt = self._tokens(messages[:number], guard, answering=True)
                answered = self._tokens(messages[: number + 1], guard)
                if tokens[: len(prompt)] != prompt or tokens[: len(answered)] != answered:
                    raise BadRecord(
                        f"{where}: the chat template writes message {number + 1} in another way than "
                        "where the conversation ends there; cut the conversation before it"
                    )
                loss_mask[len(prompt) : self._end(answered)] = 1.0
        except BadRecord:
            raise
        except UserError as error:
            raise BadRecord(f"{where}: {error}") from None
        return Example(np.array(tokens, np.int32), loss_mask)

    def _tokens(self, messages: Sequence[Message], guard: str, *, answering: bool = False) -> list[int]:
        """The ids of messages, up to where the assistant's next words begin if it is `answering`."""
        protected = [
            {**message, "content": self._text.protect(message["content"], guard)} for message in messages
        ]
        written = self._template.render(protected, add_generation_prompt=answering)
        return self._text.encode_marked(written, guard)

    def _end(self, tokens: Sequence[int]) -> int:
        """Where an answer ends: white space behind the end of a turn belongs to the template."""
        end = len(tokens)
        while end and self._text.surface(tokens[end - 1]).isspace():
            end -= 1
        return end
