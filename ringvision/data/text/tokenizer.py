"""What every text tokenizer does: text -> ids, ids -> text, and ids -> text one id at a time.

In: text. Out: ids in [0, size). Each id stands for bytes (its surface), so that a character that takes
several ids is never cut in two. Special tokens (the beginning, the end, whose turn it is) have ids but no
surface. `encode` never returns them, whatever a user writes. `encode_marked` does: it is for the text that a
chat template wrote, in which what the user wrote was protected (`guard`, `protect`).
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from ringvision.errors import UserError

GUARDS = [chr(code) for code in chain(range(0xFDD0, 0xFDF0), range(0xE000, 0xE100))]
"""Characters that no ordinary text contains: the first are noncharacters, which Unicode leaves to a program's
internal use, the others are for private use.
"""


class TextTokenizer(ABC):
    """A text tokenizer.

    size: number of ids. bos, eos: the ids that open and close a text (None where there is none). specials:
    the text of each special token -> its id.
    """

    def __init__(
        self,
        surfaces: Sequence[bytes],
        specials: Mapping[str, int],
        bos: int | None,
        eos: int | None,
        *,
        opens_with_space: bool = False,
        spaced: Mapping[str, tuple[bool, bool]] | None = None,
    ) -> None:
        """
        Args:
            surfaces: the bytes of every id; b"" for a special one.
            specials: the text of each special token -> its id.
            bos, eos: the ids that open and close a text (None where there is none).
            opens_with_space: whether `encode` puts a space before the text, which `decode` removes again.
            spaced: special tokens that take in white space around them -> (before, after).
        """
        self.size = len(surfaces)
        self.bos = bos
        self.eos = eos
        self.specials = dict(specials)
        self.opens_with_space = opens_with_space
        self._surfaces = surfaces
        self._marks = _any_of(self.specials, spaced or {})

    @abstractmethod
    def _ids(self, text: str, first: bool) -> Sequence[int]:
        """The ids of a text that is not empty, without special tokens. first: whether nothing precedes it."""

    def encode(self, text: str) -> list[int]:
        """Text -> ids, without bos, eos and other special tokens, whatever the text. UserError on half of a
        surrogate pair.
        """
        check_unicode(text)
        return list(self._ids(text, True)) if text else []

    def encode_marked(self, text: str, guard: str = "") -> list[int]:
        """As `encode`, but the text of a special token becomes its id. guard: the character with which
        `protect` marked what must remain text; it is removed.
        """
        check_unicode(text)
        tokens: list[int] = []
        for index, part in enumerate(self._marks.split(text) if self._marks else [text]):
            if index % 2:
                tokens.append(self.specials[part if part in self.specials else part.strip()])
            elif part := part.replace(guard, "") if guard else part:
                tokens += self._ids(part, not tokens)
        return tokens

    def guard(self, texts: Iterable[str]) -> str:
        """A character of GUARDS that is in none of the texts. UserError where they contain all of them."""
        used = set().union(*map(set, texts))
        for guard in GUARDS:
            if guard not in used:
                return guard
        raise UserError(
            f"the text holds all {len(GUARDS)} characters that stand in no text; remove some of them"
        )

    def protect(self, text: str, guard: str) -> str:
        """The text with `guard` put in wherever it would otherwise be read as a special token, by itself or
        together with the text around it.
        """
        if self._marks:
            text = self._marks.sub(lambda found: _break(found[0], guard), text)
        start = len(text) - len(text.lstrip())
        end = len(text.rstrip())
        words = text[start:end]
        for special in self.specials:
            before = any(words.startswith(special[at:]) for at in range(1, len(special)))
            after = any(words.endswith(special[:at]) for at in range(1, len(special)))
            if words and (before or after or words in special):
                return text[:start] + guard + words + guard + text[end:]
        return text

    def decode(self, tokens: Iterable[int]) -> str:
        """Ids -> text. Ids without a surface (special tokens, codes of a video) give nothing; bytes that are
        not UTF-8 give U+FFFD.
        """
        text = b"".join(map(self.surface, tokens)).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.opens_with_space else text

    def stream(self) -> "TextStream":
        """A decoder that takes one id at a time."""
        return TextStream(self)

    def surface(self, token: int) -> bytes:
        """The bytes of one id; b"" for one that this tokenizer does not have."""
        return self._surfaces[token] if 0 <= token < self.size else b""


class TextStream:
    """Decodes ids as they are generated: `push` returns the text that is complete by then, `finish` the rest.

    The pieces together equal `decode` of all ids: a character of several bytes is held back until its last
    one.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._opening = tokenizer.opens_with_space  # whether a space at the front is still to be removed
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._without_opening_space(self._decoder.decode(self._tokenizer.surface(token)))

    def finish(self) -> str:
        return self._without_opening_space(self._decoder.decode(b"", final=True))

    def _without_opening_space(self, piece: str) -> str:
        if self._opening and piece:
            self._opening = False
            return piece.removeprefix(" ")
        return piece


def check_unicode(text: str) -> None:
    """UserError on half of a surrogate pair, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text!r} is not valid Unicode text; remove the character at {error.start}"
        ) from error


def _any_of(specials: Iterable[str], spaced: Mapping[str, tuple[bool, bool]]) -> re.Pattern[str] | None:
    """A pattern that finds special tokens, the longest where several match, as its one group."""
    forms = []
    for special in sorted(filter(None, specials), key=len, reverse=True):
        before, after = spaced.get(special, (False, False))
        forms.append(r"\s*" * before + re.escape(special) + r"\s*" * after)
    return re.compile(f"({'|'.join(forms)})") if forms else None


def _break(special: str, guard: str) -> str:
    """The text of a special token with the guard after its first letter. White space around it is kept."""
    start = len(special) - len(special.lstrip()) + 1
    return special[:start] + guard + special[start:]
