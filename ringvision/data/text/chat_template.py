"""Chat templates: messages -> the one text that a model was trained to go on from.

In: a template in Jinja's language, which comes with a model and may have been written by anybody, and
messages `{"role": "user", "content": "…"}`. Out: text in which special tokens stand as text
(`TextTokenizer.encode_marked` reads them). A template is run by a process of its own (template_process.py) in
Jinja's sandbox, with bounds on time, memory and output, and no way to open a file: one that loops without end
or fills memory is an error like any other.
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
"""What a rendering may take; a usual one takes a thousandth of a second, the first of a process the half of
one.
"""
MOST_CHARACTERS = 1 << 20
"""Of a template."""


class ChatTemplate:
    """One template. bos, eos: the text of these special tokens; variables: whatever else it may name.
    seconds: of one rendering.
    """

    def __init__(
        self,
        source: str,
        *,
        bos: str = "",
        eos: str = "",
        variables: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
    ) -> None:
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
        """The text of a conversation. add_generation_prompt: it ends where an answer is to begin.

        UserError where the template is damaged, refuses these messages (many want user and assistant to take
        turns), does what it must not, or takes too much time or memory.
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
    """The template of a model folder: chat_template.jinja, or what tokenizer_config.json says. UserError
    where there is none.
    """
    settings = read_settings(folder)
    path = Path(folder) / TEMPLATE_FILE
    source: Any = settings.get("chat_template")
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            source = file.read(MOST_CHARACTERS + 1)
    if isinstance(source, list):  # several, each under a name
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
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None
