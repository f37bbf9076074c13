"""Other projects' text tokenizers: read in a process of their own (tokenizer_process.py), used like any
`TextTokenizer`.

In: the path of a tokenizer.json or of a sentencepiece model. Out: a tokenizer whose ids come from that
process within a bounded time. Ids become text here, by the table of surfaces that the process returned at the
start, so no compiled library in this process reads anything from the file.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ringvision.data.text.isolation.line_process import LineProcess
from ringvision.data.text.tokenizer import TextTokenizer, check_unicode
from ringvision.errors import UserError

SECONDS_TO_READ = 30.0
"""The longest time for reading a file."""
SECONDS = 5.0
CHARACTERS_A_SECOND = 50_000
"""Encoding a text may take SECONDS, and more by its length; usual tokenizers are twenty times as fast."""


class IsolatedTokenizer(TextTokenizer):
    """The tokenizer in `path`. UserError where it is missing, damaged or of an unknown kind, or takes too
    much time or memory. `encode`, `encode_marked` and `protect` raise it, too; the next call then reads the
    file again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._process: LineProcess | None = None
        with self._lock:
            found = self._start()
        surfaces = [surface.encode("latin-1") for surface in found["surfaces"]]
        super().__init__(surfaces, {}, found["bos"], found["eos"], opens_with_space=found["opens_with_space"])
        # Not given to the constructor: the process looks for them, where a costly pattern is cut off in time.
        self.specials = found["specials"]

    def _ids(self, text: str, first: bool) -> Sequence[int]:
        return list(self._call("_ids", text, first))

    def encode_marked(self, text: str, guard: str = "") -> list[int]:
        check_unicode(text)
        return list(self._call("encode_marked", text, guard)) if text else []

    def protect(self, text: str, guard: str) -> str:
        return str(self._call("protect", text, guard))

    def _start(self) -> dict[str, Any]:
        self._process = LineProcess("ringvision.data.text.isolation.tokenizer_process")
        return self._ask({"path": str(self.path)}, SECONDS_TO_READ)

    def _call(self, name: str, text: str, *more: Any) -> Any:
        with self._lock:
            if self._process is None or not self._process.alive:
                self._start()
            return self._ask(
                {"call": name, "arguments": [text, *more]}, SECONDS + len(text) / CHARACTERS_A_SECOND
            )["result"]

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None
        try:
            answer = self._process.ask(request, seconds)
        except TimeoutError:
            answer = {"error": f"does not come to an end within {seconds:.0f} s"}
        except EOFError:
            answer = {"error": "ended the process that reads it"}
        if "message" in answer:
            raise UserError(answer["message"])
        if "error" in answer:
            raise UserError(
                f"{self.path} is a text tokenizer that {answer['error']}; take the file that came "
                "with the weights"
            )
        return answer
