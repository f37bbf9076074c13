"""The examples of a data set that TFDS prepared, as records: every feature that is text.

tfds:NAME/SPLIT  --TfdsRecords-->  {"text": "...", "title": "..."}, ...
"""

from collections.abc import Mapping
from typing import Any

from ringvision.data.records.text_files import decoded
from ringvision.data.tfds import kinds, open_split


class TfdsRecords:
    """The examples of `tfds:NAME/SPLIT` or `tfds:FOLDER/SPLIT`. UserError where TFDS has prepared none."""

    def __init__(self, whole: str) -> None:
        self.name = whole
        self._split = open_split(whole)
        self.fields: tuple[str, ...] = tuple(
            name for name, feature in self._split.features().items() if kinds(feature) == ["Text"]
        )

    def __len__(self) -> int:
        return len(self._split)

    def read(self, index: int) -> Mapping[str, Any]:
        """The texts of an example."""
        features = self._split.example(index)
        found = {}
        for field in self.fields:
            values = list(features[field].bytes_list.value) if field in features else []
            if values:
                found[field] = decoded(self.where(index), values[0])
        return found

    def where(self, index: int) -> str:
        """Its number, from 1."""
        return f"{self.name}, example {index + 1}"
