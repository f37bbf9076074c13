"""A folder of shards that are added one by one: a killed process goes on after the last that is there."""

from pathlib import Path

import numpy as np
import pytest

from ringvision.data.tokenized import FORMATS, TokenizedVideo, format_of
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.errors import UserError


def videos(first: int, count: int) -> list[TokenizedVideo]:
    return [
        TokenizedVideo(f"world:{seed}", "", np.full((2, 2, 3), seed), np.arange(2), 1.0, 64, "abc")
        for seed in range(first, first + count)
    ]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_writer_goes_on_where_one_stopped(tmp_path: Path, format: str) -> None:
    with TokenizedWriter(tmp_path / "whole", num_codes=100, format=format) as writer:
        for first in (0, 3):
            writer.add(videos(first, 3))
    broken = TokenizedWriter(tmp_path / "resumed", num_codes=100, format=format)
    broken.add(videos(0, 3))  # and no close: the process was killed
    (tmp_path / "resumed" / f".{FORMATS[format].file_name(1)}.partial").write_bytes(b"half of it")
    with TokenizedWriter(tmp_path / "resumed", num_codes=100, format=format) as writer:
        assert writer.lengths == [3]
        writer.add(videos(3, 3))
    whole, resumed = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "resumed")
    )
    assert whole == resumed
    assert format_of(tmp_path / "whole").num_codes(tmp_path / "whole") == 100


def test_codes_take_as_few_bytes_as_they_need(tmp_path: Path) -> None:
    for num_codes, dtype in ((1 << 16, np.uint16), (1 << 17, np.uint32)):
        folder = tmp_path / str(num_codes)
        with TokenizedWriter(folder, num_codes=num_codes) as writer:
            writer.add(videos(0, 1))
        form = FORMATS["array_record"]
        assert form.decode(form.read(folder / form.file_name(0))[0]).codes.dtype == dtype


def test_another_folders_videos_are_refused(tmp_path: Path) -> None:
    with TokenizedWriter(tmp_path, num_codes=100) as writer:
        writer.add(videos(0, 2))
    for changes in ({"num_codes": 200}, {"num_codes": 100, "format": "jsonl"}):
        with pytest.raises(UserError, match="write into another folder"):
            TokenizedWriter(tmp_path, **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no format"):
        TokenizedWriter(tmp_path, num_codes=100, format="npz")
    other = TokenizedVideo("world:9", "", np.zeros((2, 2, 3), int), np.arange(2), 1.0, 64, "other")
    with (
        pytest.raises(UserError, match="tokenizer other"),
        TokenizedWriter(tmp_path, num_codes=100) as writer,
    ):
        writer.add([other])
