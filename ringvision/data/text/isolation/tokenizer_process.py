"""The process that reads other projects' text tokenizers: `python -m
ringvision.data.text.isolation.tokenizer_process`, started by client.py.

In, on stdin: a line of JSON `{"path": tokenizer.json or tokenizer.model}`, then lines `{"call": name of a
TextTokenizer's method, "arguments": […]}`. Out: the tokenizer's description (`describe`), then `{"result":
…}` for each call. Failures are `{"message": …}`, the whole message of a UserError, or `{"error": …}`. The
libraries that read these files are large and compiled, and a file can make them fill the memory, crash, or
search for a pattern without end.
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
    """Answers requests. The first names the file; after it no other file can be opened."""

    tokenizer: TextTokenizer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; failures are answers, too."""
        try:
            if self.tokenizer is None:
                self.tokenizer = read(Path(request["path"]))
                close_files()
                return describe(self.tokenizer)
            if request["call"] not in CALLS:
                return {"error": f"has no {request['call']}"}
            return {"result": getattr(self.tokenizer, request["call"])(*request["arguments"])}
        except UserError as error:
            return {"message": str(error)}
        except MemoryError:
            return {"error": f"needs more than {MEMORY >> 20} MB"}
        except BaseException as error:  # a panic in Rust is no Exception
            return {"error": f"fails ({type(error).__name__}: {str(error)[:200]})"}


def read(path: Path) -> TextTokenizer:
    """The tokenizer in a file, read in this process."""
    return HuggingFaceTokenizer(path.parent) if path.name == TOKENIZER_FILE else SentencePieceTokenizer(path)


def describe(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The parts of a TextTokenizer as JSON, in which the bytes of a surface are the characters 0 to 255."""
    return {
        "surfaces": [tokenizer.surface(token).decode("latin-1") for token in range(tokenizer.size)],
        "specials": tokenizer.specials,
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "opens_with_space": tokenizer.opens_with_space,
    }


if __name__ == "__main__":
    gc.disable()  # nothing that is read becomes garbage, and looking for it would take most of the time
    limit(MEMORY)
    serve(Reader().answer)
