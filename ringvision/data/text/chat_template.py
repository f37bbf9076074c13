"""Chat templates: messages -> the text that a model was trained to continue.

In: a Jinja template, which comes with a model and may have been written by anybody, and messages `{"role":
"user", "content": "…"}`. Out: text in which special tokens are written as text (`TextTokenizer.encode_marked`
turns them into ids).

A template runs in a process of its own (isolation/template_process.py), in Jinja's sandbox, with bounds on
time, memory and output and without access to files, so that a template that never ends or fills the memory is
an error like any other. transformers' `apply_chat_template` runs it in the calling process, without bounds.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ringvision.data.text.isolation.line_process import LineProcess
from ringvision.data.text.settings import SETTINGS_FILE, read_settings
from ringvision.errors import UserError

TEMPLATE_FILE = "chat_template.jinja"
SECONDS = 6.0
"""The longest time for one rendering. A usual one takes 1 ms, the first one of a process half a second."""
MOST_CHARACTERS = 1 << 20
"""The longest template."""


class ChatTemplate:
    """One template, ready to be rendered."""

    def __init__(
        self,
        source: str,
        *,
        bos: str = "",
        eos: str = "",
        variables: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
    ) -> None:
        """
        Args:
            source: the template.
            bos, eos: the text of these special tokens.
            variables: whatever else the template may name.
            seconds: the longest time for one rendering.

        Raises:
            UserError: the template is too long.
        """
        if len(source) > MOST_CHARACTERS:
            raise UserError(
                f"the chat template has {len(source)} characters; expected at most {MOST_CHARACTERS}"
            )
        self.source = source
        self.seconds = seconds
        self._variables = {**(variables or {}), "bos_token": bos, "eos_token": eos}
        self._process: LineProcess | None = None
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """-> the text of a conversation. add_generation_prompt: whether it ends with the beginning of the
        assistant's turn.

        UserError where the template is damaged, refuses these messages (many require user and assistant to
        take turns), does something forbidden, or takes too much time or memory.
        """
        variables = {
            **self._variables,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        with self._lock:
            if self._process is None or not self._process.alive:
                self._process = LineProcess("ringvision.data.text.isolation.template_process")
            answer = self._ask({"source": self.source, "variables": variables})
        if (text := answer.get("text")) is None:
            raise UserError(
                f"the chat template {answer.get('error')}; give a folder with another "
                f"{TEMPLATE_FILE}, or another conversation"
            )
        return str(text)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        try:
            return self._process.ask(request, self.seconds)
        except TimeoutError:
            return {"error": f"was not rendered within {self.seconds:g} s"}
        except EOFError:
            return {"error": "ended the process that rendered it"}


def load_chat_template(folder: str | os.PathLike[str]) -> ChatTemplate:
    """The template of a model folder: chat_template.jinja, or the one in tokenizer_config.json. UserError
    where there is none.
    """
    settings = read_settings(folder)
    path = Path(folder) / TEMPLATE_FILE
    source: Any = settings.get("chat_template")
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            source = file.read(MOST_CHARACTERS + 1)
    if isinstance(source, list):  # several templates, each with a name
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)}
        source = named.get("default")
    if not isinstance(source, str):
        where = f"neither {TEMPLATE_FILE} nor a chat_template in {SETTINGS_FILE}"
        raise UserError(
            f"{folder} has {where}, so it is no model to chat with; add the template that it was trained with"
        )
    tokens = {name: _content(value) for name, value in settings.items() if name.endswith("_token")}
    variables = {name: value for name, value in tokens.items() if value is not None}
    return ChatTemplate(
        source, bos=variables.pop("bos_token", ""), eos=variables.pop("eos_token", ""), variables=variables
    )


def _content(token: Any) -> str | None:
    """The text of a special token, which is written as itself or as an object with a `content`."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None
