"""The process that reads other people's text tokenizers: `python -m
ringvision.data.text.isolation.tokenizer_process`, started by text_apart.py.

In, on stdin: a line of JSON `{"path": tokenizer.json or tokenizer.model}`, which is read; then lines
`{"call": name of a TextTokenizer's method, "arguments": […]}`. Out: what the tokenizer is (`describe`), then
`{"result": …}` each; or `{"error": …}`. The libraries that read these files are large and compiled, and a
file can make them take all memory, end their process, or search for a pattern without end.
"""

import gc
from pathlib import Path
from typing import Any

from ringvision.data.text.isolation.hugging_face import HuggingFaceTokenizer
from ringvision.data.text.isolation.line_process import close_files, limit, serve
from ringvision.data.text.sentencepiece_tokenizer import SentencePieceTokenizer
from ringvision.data.text.settings import TOKENIZER_FILE
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError

MEMORY = 2 << 30
CALLS = ("_ids", "encode_marked", "protect")


class Reader:
    """Answers requests: the first names the file, and no file can be opened after it."""

    codec: TextTokenizer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; whatever goes wrong is an answer, too."""
        try:
            if self.codec is None:
                self.codec = read(Path(request["path"]))
                close_files()
                return describe(self.codec)
            if request["call"] not in CALLS:
                return {"error": f"has no {request['call']}"}
            return {"result": getattr(self.codec, request["call"])(*request["arguments"])}
        except UserError as error:
            return {"said": str(error)}
        except MemoryError:
            return {"error": f"needs more than {MEMORY >> 20} MB"}
        except BaseException as error:  # what Rust panics with is no Exception
            return {"error": f"fails ({type(error).__name__}: {str(error)[:200]})"}


def read(path: Path) -> TextTokenizer:
    """The tokenizer in a file, read in this process."""
    return HuggingFaceTokenizer(path.parent) if path.name == TOKENIZER_FILE else SentencePieceTokenizer(path)


def describe(codec: TextTokenizer) -> dict[str, Any]:
    """What a `TextTokenizer` consists of, in JSON; the bytes of each surface as the characters 0 to 255."""
    return {
        "surfaces": [codec.surface(token).decode("latin-1") for token in range(codec.size)],
        "specials": codec.specials,
        "bos": codec.bos,
        "eos": codec.eos,
        "opens_with_space": codec.opens_with_space,
    }


if __name__ == "__main__":
    gc.disable()  # what is read stays; looking for what does not would take most of the time
    limit(MEMORY)
    serve(Reader().answer)
