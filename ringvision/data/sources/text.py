"""Text to train on: documents and conversations in files of any usual format.

    record {"text": "..."}                                     bos text eos, every token counts
    record {"messages": [{"role": "user", "content": "..."},
                         {"role": "assistant", ...}]}          bos question answer eos ..., answers count

Where records lie and how they are read, data/records says; conversation.py makes tokens of conversations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ringvision.checks import Checks
from ringvision.data.records import Records, open_records
from ringvision.data.sources.base import BadRecord, SourceConfig, VideosInfo
from ringvision.data.sources.conversation import QuestionForm, TemplateForm, checked_messages
from ringvision.data.stream import Example, PromptProcessor
from ringvision.errors import UserError

OF_INIT_FROM = "init_from"
"""As a chat_template: that of the model that the run starts from."""
TRIED = 64
"""Records of which one at least must be good when a source is opened."""


@dataclass(frozen=True)
class TextData(SourceConfig):
    """Text in files, in a data set that was saved by `datasets`, or in one of TFDS.

    Every token after bos counts `token_weight`, so that a long document counts more than a short one; an
    answer about a video counts 1 as a whole.

    path: a file, a folder or a pattern of .txt, .md, .jsonl, .jsonl.gz, .parquet or .arrow; a folder that
        save_to_disk wrote; or tfds:NAME/SPLIT.
    field: of a record: text, or a conversation as a list of {"role": ..., "content": ...}.
    separator: what stands between documents in files of text; "": a file is a document.
    split: which split of what save_to_disk wrote.
    chat_template: folder of a model whose chat template writes conversations; "init_from": that of the model
        that the run starts from; "": they are written as the run's questions and answers are.
    token_weight: how much predicting a token counts.
    """

    path: str
    field: str = "text"
    separator: str = ""
    split: str = "train"
    chat_template: str = ""
    token_weight: float = 1.0

    def open(self, processor: PromptProcessor, length: int) -> "TextSource":
        """The documents. UserError where there are none, or no record has the field."""
        records = open_records(self.path, columns=(self.field,), separator=self.separator, split=self.split)
        return TextSource(records, processor, self)

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("path", "field", "split")
        checks.positive("token_weight")
        return [*super().problems(), *checks.problems]


class TextSource:
    """Documents of text, a DataSource.

    Args:
        records: where they lie.
        processor: makes tokens of them.
        config: which field is read, and how.

    Raises:
        UserError: there is no text tokenizer, no record has the field, or none of the first can be read.
    """

    vision: VideosInfo | None = None

    def __init__(self, records: Records, processor: PromptProcessor, config: TextData) -> None:
        self.name = config.path
        self.notices: Sequence[str] = ()
        self._records = records
        self._processor = processor
        self._field = field = config.field
        self._token_weight = config.token_weight
        self._chat_template = config.chat_template
        fields = records.fields
        if fields and field not in fields:
            raise UserError(
                f"{self.name}: no record has a field {field!r}; there are {', '.join(fields)[:500]}: give "
                "one of them as field"
            )
        check_text_tokenizer(self.name, processor)
        check_some_good(self, len(records))

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def _form(self) -> QuestionForm | TemplateForm:
        """How conversations are written; documents need no template."""
        if not self._chat_template:
            return QuestionForm(self._processor)
        return TemplateForm(self._processor, self._chat_template)

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        """The document of this number; nothing is left to chance. BadRecord where it cannot be read.

        Args:
            index: which one.
            random: is not used.
            step: is not used.

        Returns:
            bos, the text, eos. The loss_mask of an empty one, or of null, is 0 everywhere.
        """
        where = self._records.where(index)
        record = read(self._records, index)
        if self._field not in record:
            raise BadRecord(f"{where}: it has no {self._field!r}, only {', '.join(record)[:200]}; correct it")
        value = "" if record[self._field] is None else record[self._field]
        if isinstance(value, list):
            made = self._form.example(where, checked_messages(where, value))
            return counted_by_token(made, self._token_weight)
        if not isinstance(value, str):
            raise BadRecord(
                f"{where}: {self._field} is a {type(value).__name__}, expected text; correct or remove it"
            )
        words = encoded(self._processor, where, value) if value.strip() else []
        vocabulary = self._processor.vocabulary
        tokens = np.array([vocabulary.bos, *words, vocabulary.eos], np.int32)
        loss_mask = np.full(len(tokens), float(bool(words)), np.float32)
        loss_mask[0] = 0.0  # nothing predicts the first token
        return counted_by_token(Example(tokens, loss_mask), self._token_weight)


def counted_by_token(example: Example, token_weight: float) -> Example:
    """The example with the weight of all its tokens that are predicted and have loss."""
    counted = float(example.loss_mask[1:].sum(dtype=np.float64))
    return replace(example, weight=counted * token_weight)


def read(records: Records, index: int) -> Mapping[str, Any]:
    """A record. BadRecord where it cannot be read."""
    try:
        return records.read(index)
    except UserError as error:
        raise BadRecord(str(error)) from None


def encoded(processor: PromptProcessor, where: str, text: str) -> list[int]:
    """Text as ids. BadRecord where it cannot be encoded."""
    try:
        return processor.text.encode(text)
    except UserError as error:
        raise BadRecord(f"{where}: {error}") from None


def check_text_tokenizer(name: str, processor: PromptProcessor) -> None:
    """UserError where the run has no text tokenizer."""
    if not processor.text.size:
        raise UserError(
            f"{name} is text, and the model has no text tokenizer; give one as data.text_model, or put the "
            "tokenizer.model or tokenizer.json that came with its weights into its folder"
        )


def check_some_good(source: Any, count: int) -> None:
    """UserError, what is wrong with the first, where none of the first records can be read."""
    problems = []
    for index in range(min(count, TRIED)):
        try:
            source.example(index, np.random.default_rng(0), 0)
            return
        except BadRecord as error:
            problems.append(str(error))
    others = f" (and none of the {len(problems)} first records is good)" if len(problems) > 1 else ""
    raise UserError(f"{problems[0]}{others}")
