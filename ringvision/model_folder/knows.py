"""What a model was trained for, as its config.json says it: `"knows": {"about", "questions", "seconds"}`.

In: an object of a config.json that may come from anybody. Out: a `Knows`, or one line about what is wrong
with it. Nothing is known of a model whose config.json has no such object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringvision.errors import UserError

LONGEST_TEXT = 300
"""Characters of a sentence or a question."""
MOST_KINDS = 64
MOST_EXAMPLES = 64
LONGEST_SECONDS = 1e6


@dataclass(frozen=True)
class Knows:
    """What a model was trained for.

    about: one sentence, the kind of videos. questions: by kind, examples of those that it was trained to
    answer; all words that they were put in should be among them. seconds: the longest videos for which it was
    measured how well it answers.
    """

    about: str
    questions: Mapping[str, Sequence[str]]
    seconds: float

    @classmethod
    def from_dict(cls, values: Any, where: str = "knows") -> "Knows":
        """What a config.json says. where: what messages call it. UserError names all that is wrong."""
        if not isinstance(values, Mapping) or values.keys() != {"about", "questions", "seconds"}:
            raise UserError(f'{where} is no object of "about", "questions" and "seconds"; {ADVICE}')
        wrong = []
        if not _is_text(values["about"]):
            wrong.append(f"about is not a sentence of 1 to {LONGEST_TEXT} characters on one line")
        seconds = values["seconds"]
        if type(seconds) not in (int, float) or not 0 < seconds <= LONGEST_SECONDS:
            wrong.append(f"seconds is not a number above 0 and up to {LONGEST_SECONDS:g}")
        questions = values["questions"]
        if not _are_questions(questions):
            wrong.append(
                f"questions is not an object of at most {MOST_KINDS} kinds with 1 to {MOST_EXAMPLES} "
                f"questions each, of up to {LONGEST_TEXT} characters on one line"
            )
        if wrong:
            raise UserError(f"{where}: {'; '.join(wrong)}; {ADVICE}")
        kinds = {kind: tuple(examples) for kind, examples in questions.items()}
        return cls(values["about"], kinds, float(seconds))

    def to_dict(self) -> dict[str, Any]:
        """The reverse of `from_dict`."""
        kinds = {kind: list(examples) for kind, examples in self.questions.items()}
        seconds = int(self.seconds) if self.seconds == int(self.seconds) else self.seconds
        return {"about": self.about, "questions": kinds, "seconds": seconds}


ADVICE = "take it out of the config.json, or copy the model folder again"


def _is_text(value: Any) -> bool:
    return (
        isinstance(value, str) and value.strip() != "" and len(value) <= LONGEST_TEXT and value.isprintable()
    )


def _are_questions(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= MOST_KINDS
        and all(map(_is_text, value))
        and all(
            isinstance(examples, list | tuple)
            and 0 < len(examples) <= MOST_EXAMPLES
            and all(map(_is_text, examples))
            for examples in value.values()
        )
    )
