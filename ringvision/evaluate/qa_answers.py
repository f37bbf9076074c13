"""How a question about a video is put to a model, and which answers are right.

    open       the question as it is                            right: the same after `plain_words`
    choices    the question, "A. …" on lines of their own, and  right: the letter that `chosen_letter` finds
               a request for the letter alone

Open answers are compared word for word: no model judges them, and a synonym is wrong. A letter is read from
what the model says rather than from the probabilities of letters, so that a model that was never trained to
answer with letters, and says the text of an option, is understood as well.
"""

import re

from ringvision.evaluate.qa_formats import LETTERS, VideoQuestion

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ARTICLES = ("a", "an", "the")
_ALONE = re.compile(r"\W*([A-J])\W*", re.IGNORECASE)
_FIRST = re.compile(r"\s*(?:\(([A-J])\)|([A-J])[.:)])(?=\s|$)", re.IGNORECASE)
_SAID = re.compile(r"\b(?i:answer|option|choice)\b(?:\s+is)?\s*:?\s*\(?([A-J])\b")


def prompt(question: VideoQuestion) -> str:
    """What the model is asked."""
    if not question.options:
        return question.text
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options)]
    return "\n".join([question.text, *lines, "Answer with the letter alone."])


def plain_words(answer: str) -> str:
    """An open answer without what does not make it wrong: case, punctuation, articles, extra spaces; numbers
    up to ten as digits.
    """
    words = re.sub(r"[^\w\s]|_", " ", answer.casefold().replace("'", "")).split()
    return " ".join(
        str(NUMBERS.index(word)) if word in NUMBERS else word for word in words if word not in ARTICLES
    )


def chosen_letter(answer: str, options: tuple[str, ...]) -> str | None:
    """The option that an answer means, as its letter: a letter alone, "B." or "(B)" before anything else,
    "the answer is B", the text of an option, or, where just one option's text is in the answer, that one.
    None where it means none, or it cannot be told.
    """
    letters = LETTERS[: len(options)]
    for found in (_ALONE.fullmatch(answer), _FIRST.match(answer), _SAID.search(answer)):
        if found:
            letter = next(group for group in found.groups() if group).upper()
            return letter if letter in letters else None
    said = plain_words(answer)
    texts = [plain_words(option) for option in options]
    if said in texts:
        return letters[texts.index(said)] if texts.count(said) == 1 else None
    inside = [letter for letter, text in zip(letters, texts) if text and f" {text} " in f" {said} "]
    return inside[0] if len(inside) == 1 else None


def is_right(question: VideoQuestion, answer: str) -> bool:
    """Whether the answer is the expected one."""
    if question.options:
        return chosen_letter(answer, question.options) == question.answer
    return plain_words(answer) == plain_words(question.answer)
