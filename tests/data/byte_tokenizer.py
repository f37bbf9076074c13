"""A text tokenizer of bytes, for tests: a space, then the bytes of a text, from id 3 on. 1 is bos, 2 eos."""

from ringvision.data.stream import PromptProcessor
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.vocabulary import Vocabulary


class ByteTokenizer(TextTokenizer):
    """`encode("ab")` gives the ids of the bytes of " ab"."""

    def __init__(self) -> None:
        surfaces = [b"", b"", b"", *(bytes([byte]) for byte in range(256))]
        super().__init__(surfaces, {"<s>": 1, "</s>": 2}, 1, 2, opens_with_space=True)

    def _ids(self, text: str, first: bool) -> list[int]:
        return [3 + byte for byte in (" " * first + text).encode()]


def byte_processor(num_codes: int = 8) -> PromptProcessor:
    """A processor whose words are bytes and whose markers are spelt, as LWM's are."""
    text = ByteTokenizer()
    markers = (tuple(text.encode(marker)) for marker in ("<vision>", "</vision>"))
    return PromptProcessor(text, Vocabulary(text.size, num_codes, 1, 2, *markers))
