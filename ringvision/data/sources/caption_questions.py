"""What a caption says besides what happens: questions whose answers stand in it.

    CaptionQuestion("a (?P<colour>\\w+) square", "What colour was the square?", "{colour}")
    "A teal square moves left."  --questions_in-->  ("What colour was the square?", "teal")

A small model that is trained on captions alone learns to caption; it does not find out by itself that the
same words answer questions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CaptionQuestion:
    """A question that captions of a certain form answer.

    caption: a regular expression with named groups, looked for everywhere in a caption, upper or lower case.
    question, answer: texts in which {name} stands for what the group of that name found, in lower case.
    """

    caption: str
    question: str
    answer: str

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        try:
            found = re.compile(self.caption).groupindex
            for text in (self.question, self.answer):
                text.format_map(dict.fromkeys(found, ""))
        except re.error as error:
            return [f"caption is {self.caption!r}, expected a regular expression: {error}"]
        except (KeyError, ValueError, IndexError) as error:
            names = ", ".join(f"{{{name}}}" for name in found) or "none"
            return [
                f"question is {self.question!r} and answer {self.answer!r}, expected the names of groups in "
                f"caption ({names}) in their braces: {error}"
            ]
        return []

    def found_in(self, caption: str) -> list[tuple[str, str]]:
        """(question, answer) of every part of a caption that has this form, in their order."""
        found = []
        for match in re.finditer(self.caption, caption, re.IGNORECASE):
            words = {name: (word or "").lower() for name, word in match.groupdict().items()}
            found.append((self.question.format_map(words), self.answer.format_map(words)))
        return found


def questions_in(caption: str, forms: Sequence[CaptionQuestion]) -> list[tuple[str, str]]:
    """The questions that a caption answers, each once.

    Args:
        caption: what is said of a video.
        forms: earlier ones go before: what one of them has asked, none behind it asks again.

    Returns:
        (question, answer), without questions to which the same form finds several answers, as "What colour
        was the square?" where there were two.
    """
    answers: dict[str, set[str]] = {}
    for form in forms:
        found: dict[str, set[str]] = {}
        for question, answer in form.found_in(caption):
            found.setdefault(question, set()).add(answer)
        for question, those in found.items():
            answers.setdefault(question, those)
    return [(question, next(iter(those))) for question, those in answers.items() if len(those) == 1]
