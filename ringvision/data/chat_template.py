"""Chat templates: messages -> the one text that a model was trained to go on from.

In: a template in Jinja's language, which comes with a model and may have been written by anybody, and messages
`{"role": "user", "content": "…"}`. Out: text in which special tokens stand as text (`TextCodec.encode_marked` reads them).
A template is run by a process of its own (template_process.py) in Jinja's sandbox, with bounds on time, memory and output, and no way to
open a file: one that loops without end or fills memory is an error like any other.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ringvision.data.hugging_face_text import SETTINGS_FILE, read_settings
from ringvision.errors import UserError

TEMPLATE_FILE = "chat_template.jinja"
SECONDS = 10.0
"""What a rendering may take; a usual one takes a thousandth of a second, the first of a process the half of one."""
MOST_CHARACTERS = 1 << 20
"""Of a template."""
_PIECE = 1 << 16


class ChatTemplate:
    """One template. bos, eos: the text of these special tokens; variables: whatever else it may name. seconds: of one rendering."""

    def __init__(
        self, source: str, *, bos: str = "", eos: str = "", variables: Mapping[str, Any] | None = None, seconds: float = SECONDS
    ) -> None:
        if len(source) > MOST_CHARACTERS:
            raise UserError(f"the chat template has {len(source)} characters; expected at most {MOST_CHARACTERS}")
        self.source, self.seconds = source, seconds
        self._variables = {**(variables or {}), "bos_token": bos, "eos_token": eos}
        self._process: _Process | None = None
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation. add_generation_prompt: it ends where an answer is to begin.

        UserError where the template is damaged, refuses these messages (many want user and assistant to take turns), does what it must
        not, or takes too much time or memory.
        """
        variables = {**self._variables, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
        with self._lock:
            if self._process is None or not self._process.alive:
                self._process = _Process()
            answer = self._process.ask({"source": self.source, "variables": variables}, self.seconds)
        if (text := answer.get("text")) is None:
            raise UserError(f"the chat template {answer.get('error')}; give a folder with another {TEMPLATE_FILE}, or another conversation")
        return str(text)


def load_chat_template(folder: str | os.PathLike[str]) -> ChatTemplate:
    """The template of a model folder: chat_template.jinja, or what tokenizer_config.json says. UserError where there is none."""
    settings, path = read_settings(folder), Path(folder) / TEMPLATE_FILE
    source = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several, each under a name
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)}
        source = named.get("default")
    if not isinstance(source, str):
        where = f"neither {TEMPLATE_FILE} nor a chat_template in {SETTINGS_FILE}"
        raise UserError(f"{folder} has {where}, so it is no model to chat with; add the template that it was trained with")
    tokens = {name: _content(value) for name, value in settings.items() if name.endswith("_token")}
    variables = {name: value for name, value in tokens.items() if value is not None}
    return ChatTemplate(source, bos=variables.pop("bos_token", ""), eos=variables.pop("eos_token", ""), variables=variables)


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None


class _Process:
    """The process that renders: a request and its answer are a line of JSON each. It ends when this object is dropped."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ringvision.data.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, PYTHONPATH=paths),
            start_new_session=True,  # an interrupt from the terminal is not for it
            bufsize=0,
        )
        self._end = weakref.finalize(self, _end, self._child)

    @property
    def alive(self) -> bool:
        return self._end.alive and self._child.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """{"text": …} or {"error": …}; an answer that is late, too long or none ends the process."""
        until = time.monotonic() + seconds
        try:
            answer: dict[str, Any] | None = json.loads(self._exchange(json.dumps(request).encode() + b"\n", until))
        except TimeoutError:
            answer = {"error": f"was not rendered within {seconds:g} s"}
            self._end()
        except (OSError, ValueError):
            answer = {"error": "ended the process that rendered it"}
            self._end()
        except BaseException:
            self._end()  # interrupted: its answer would be taken for that of the next request
            raise
        return answer if isinstance(answer, dict) else {"error": "gave no text"}

    def _exchange(self, request: bytes, until: float) -> bytes:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        requests, answers = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(requests, False)
        answer = b""
        while not answer.endswith(b"\n"):
            left = until - time.monotonic()
            readable, writable, _ = select.select([answers], [requests] if request else [], [], max(0.0, left))
            if left <= 0:
                raise TimeoutError
            if writable:
                request = request[os.write(requests, request[:_PIECE]) :]
            if readable:
                piece = os.read(answers, _PIECE)
                if not piece:
                    raise EOFError("the process ended") from None
                answer += piece
        return answer


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for end in (child.stdin, child.stdout):
        if end is not None:
            end.close()
