import base64
import io
import re
import sqlite3
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ringvision.data.tokenized import FORMATS, FolderMetadata, TokenizedVideo
from ringvision.errors import UserError
from ringvision.tokenize.inspect import describe, inspect
from ringvision.video_tokenizer import load_video_tokenizer

SHIPPED = Path(__file__).parents[2] / "tokenizers" / "world-16"


class Red:
    """2x2 codes a frame; a code is how red an 8x8 patch is."""

    size = 16
    num_codes = 256
    hash = "red"

    def __init__(self):
        self.decoded = 0

    def decode(self, codes, dtype=np.float32):
        assert codes.dtype == np.int32 and np.dtype(dtype) == np.uint8
        self.decoded += len(codes)
        red = codes.repeat(8, 1).repeat(8, 2).astype(np.uint8)
        return np.stack([red, red * 0, red * 0], 3)


def film(number, frames, tokenizer="red", **changed):
    known = {
        "source": f"/videos/{number}.mp4",
        "sha256": "",
        "codes": np.full((frames, 2, 2), 10 * number, np.uint16),
        "times": np.arange(frames) / 2,
        "fps": 2.0,
        "size": 16,
        "tokenizer": tokenizer,
    }
    return TokenizedVideo(**known | changed)


def folder_of(folder, shards, format="array_record", num_codes=256):
    form = FORMATS[format]
    folder.mkdir(exist_ok=True)
    for shard, examples in enumerate(shards):
        form.write(folder / form.file_name(shard), [form.encode(example) for example in examples])
    lengths = [len(examples) for examples in shards]
    form.write_metadata(folder, FolderMetadata(lengths, (2, 2), num_codes))
    return folder


@pytest.fixture(params=sorted(FORMATS))
def folder(tmp_path, request):
    shards = [[film(1, 4, caption="one"), film(2, 2, qa=(("q", "a"), ("r", "b")))], [], [film(3, 7)]]
    return folder_of(tmp_path / "tokens", shards, request.param)


def test_everything_is_counted(folder):
    report = inspect(folder)
    assert report["format"] in FORMATS
    assert (report["shards"], report["videos"], report["frames"], report["codes"]) == (3, 3, 13, 52)
    assert report["hours"] == pytest.approx(13 / 2 / 3600)
    assert report["lengths"] == {"min": 2, "median": 4, "max": 7}
    assert (report["captions"], report["questions"]) == (1, 2)
    assert (report["tokenizer"], report["grid"], report["size"], report["fps"]) == (
        "red",
        ["2x2"],
        [16],
        [2.0],
    )
    assert (report["num_codes"], report["codes_used"], report["unused"]) == (256, 3, 253)
    shares = np.array([16, 8, 28]) / 52
    assert report["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert report["most_used"] == [[30, 28], [10, 16], [20, 8]]
    assert report["least_used"] == [[20, 8], [10, 16], [30, 28]]
    assert report["unused_codes"] == list(range(10))
    assert report["histogram"] == [
        {"from": 0, "to": 0, "codes": 253},
        {"from": 1, "to": 1, "codes": 0},
        {"from": 2, "to": 3, "codes": 0},
        {"from": 4, "to": 7, "codes": 0},
        {"from": 8, "to": 15, "codes": 1},
        {"from": 16, "to": 31, "codes": 2},
    ]
    assert (report["status"], report["failures"], report["out"]) == (None, None, None)


def test_the_manifest_tells_what_failed(folder):
    with sqlite3.connect(folder / "manifest.sqlite") as database:
        database.execute("CREATE TABLE videos (source TEXT, status TEXT, kind TEXT, message TEXT)")
        rows = [
            ("a", "done", None),
            ("b", "failed", "bomb"),
            ("c", "failed", "truncated"),
            ("d", "failed", "truncated"),
            ("e", "failed", None),
        ]
        database.executemany("INSERT INTO videos VALUES (?, ?, ?, '')", rows)
    database.close()
    before = (folder / "manifest.sqlite").read_bytes()
    report = inspect(folder)
    assert report["status"] == {"done": 1, "failed": 4}
    assert list(report["failures"].items()) == [("truncated", 2), ("bomb", 1), ("unknown", 1)]
    assert (folder / "manifest.sqlite").read_bytes() == before
    assert re.search(r"failed: truncated +2\n", describe(report))
    (folder / "manifest.sqlite").write_bytes(b"not a database, " * 100)
    with pytest.raises(UserError, match=r"manifest\.sqlite cannot be read"):
        inspect(folder)


def test_people_read_a_table_and_a_histogram(folder):
    text = describe(inspect(folder))
    for line in (
        r"videos +3, 1 with a caption, 2 questions",
        r"frames +13 of 2x2 codes",
        r"codes used +3 of 256 \(1\.2%\)",
        r"most used +30 \(28\)",
    ):
        assert re.search(line, text), text
    assert re.search(r"never used +253: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.", text)
    bars = {
        name.strip(): len(bar) for name, bar in re.findall(r"^ +([\d to]+?) +[\d,]+(?:  (#+))?$", text, re.M)
    }
    assert bars == {"0": 40, "1": 0, "2 to 3": 0, "4 to 7": 0, "8 to 15": 1, "16 to 31": 1}


def test_a_folder_without_examples_is_described(tmp_path):
    report = inspect(folder_of(tmp_path / "empty", [[], []]))
    assert (report["videos"], report["frames"], report["codes_used"], report["perplexity"]) == (0, 0, 0, 0.0)
    assert "videos" in describe(report)


def test_the_sheet_shows_what_was_encoded(folder, tmp_path):
    tokenizer = Red()
    report = inspect(folder, out=tmp_path / "sheet.png", tokenizer=tokenizer)
    assert report["out"] == str(tmp_path / "sheet.png")
    assert tokenizer.decoded == 13
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    for red, frames in ((10, 4), (20, 2), (30, 7)):
        assert (pixels == (red, 0, 0)).all(2).sum() == frames * 16 * 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png", "tokens"]


def test_the_sheet_is_of_some_frames_of_some_videos(tmp_path):
    folder = folder_of(
        tmp_path / "tokens",
        [[film(number, 40) for number in range(6)], [film(number, 3) for number in range(6, 11)]],
    )
    tokenizer = Red()
    inspect(folder, out=tmp_path / "sheet.png", tokenizer=tokenizer, videos=3)
    assert tokenizer.decoded == 12 + 12 + 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert [(pixels == (red, 0, 0)).all(2).sum() // 256 for red in (0, 50, 100)][1:] == [12, 3]


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.text = ""
        self.pictures = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *(name for name, _ in attributes)))
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])

    def handle_data(self, data):
        self.text += data


def test_a_page_holds_its_pictures_and_no_markup_of_others(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&\u202e{report}\udc80\x1b"
    example = film(1, 2, source=f"/videos/{evil.replace('/', '_')}.mp4", caption=evil, qa=((evil, "yes"),))
    folder = folder_of(tmp_path / "<b>tokens", [[example, film(2, 2, tokenizer="red")]])
    inspect(folder, out=tmp_path / "sheet.html", tokenizer=Red())
    page = Page()
    page.feed((tmp_path / "sheet.html").read_text("utf-8"))
    assert set(page.tags) == {
        ("html", "lang"),
        ("head",),
        ("meta", "charset"),
        ("meta", "http-equiv", "content"),
        ("title",),
        ("style",),
        ("body",),
        ("pre",),
        ("h2",),
        ("p",),
        ("img", "alt", "src"),
    }
    assert page.text.count("<script>alert(1)<") == 3
    assert "\u202e" not in page.text and "\\u202e{report}\\udc80\\x1b" in page.text
    assert len(page.pictures) == 2
    for red, source in zip((10, 20), page.pictures):
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert (np.asarray(picture) == (red, 0, 0)).all(2).sum() == 2 * 256


def test_a_terminal_gets_nothing_but_lines_of_text(tmp_path):
    folder = folder_of(tmp_path / "tokens", [[film(1, 1, tokenizer="\x1b[2J\nvideos  99")]])
    text = describe(inspect(folder))
    assert text.isascii() and "\x1b" not in text and "\nvideos  99" not in text


def test_the_shipped_tokenizer_decodes_its_sheet(tmp_path):
    tokenizer = load_video_tokenizer(SHIPPED)
    frames = (
        np.random.default_rng(0)
        .integers(0, 256, (3, 4, 4, 3), np.uint8)
        .repeat(tokenizer.size // 4, 1)
        .repeat(tokenizer.size // 4, 2)
    )
    codes = tokenizer.encode(frames)
    made = {"size": tokenizer.size, "tokenizer": tokenizer.hash, "codes": codes.astype(np.uint16)}
    folder = folder_of(tmp_path / "tokens", [[film(1, 3, **made)]], num_codes=tokenizer.num_codes)
    report = inspect(folder, out=tmp_path / "sheet.png", tokenizer=SHIPPED)
    assert report["codes_used"] == len(np.unique(codes)) and report["num_codes"] == tokenizer.num_codes
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    again = tokenizer.decode(codes, dtype=np.uint8)
    top = pixels.shape[0] - 4 - tokenizer.size
    left = 4
    side = tokenizer.size
    for number, frame in enumerate(again):
        start = left + number * (side + 4)
        np.testing.assert_array_equal(pixels[top : top + side, start : start + side], frame)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"out": "sheet.jpg", "tokenizer": Red()}, r"\.png or \.html"),
        ({"out": "sheet", "tokenizer": Red()}, r"\.png or \.html"),
        ({"out": "sheet.png"}, "no tokenizer"),
        ({"out": "sheet.png", "tokenizer": Red(), "videos": 0}, "at least 1"),
        ({"out": "missing/sheet.png", "tokenizer": Red()}, "cannot be written"),
        ({"tokenizer": SHIPPED}, "was encoded by tokenizer red"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_left(folder, tmp_path, arguments, word):
    if "out" in arguments:
        arguments = {**arguments, "out": tmp_path / arguments["out"]}
    with pytest.raises(UserError, match=word):
        inspect(folder, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_what_is_no_folder_of_tokens_is_told(tmp_path):
    for given, word in ((tmp_path, "no shard"), (tmp_path / "missing", "cannot be read")):
        with pytest.raises(UserError, match=word):
            inspect(given)
    (tmp_path / "videos-train-00000.jsonl").write_text("hello\n")
    with pytest.raises(UserError, match="damaged"):
        inspect(tmp_path)


def test_codes_of_two_tokenizers_are_not_counted_together(tmp_path):
    folder = folder_of(tmp_path / "tokens", [[film(1, 1), film(2, 1, tokenizer="other")]])
    with pytest.raises(UserError, match="a folder of one tokenizer"):
        inspect(folder)


def test_a_code_that_the_tokenizer_does_not_have_is_told(tmp_path):
    folder = folder_of(tmp_path / "tokens", [[film(1, 1, codes=np.full((1, 2, 2), 2**32 - 1, np.uint32))]])
    with pytest.raises(UserError, match="holds code 4294967295, expected below 256"):
        inspect(folder)
    (folder / "features.json").unlink()
    with pytest.raises(UserError, match="holds code 4294967295"):
        inspect(folder)


def test_memory_does_not_grow_with_the_folder(tmp_path):
    def peak(videos):
        folder = folder_of(tmp_path / str(videos), [[film(number % 20, 5000) for number in range(videos)]])
        tracemalloc.start()
        try:
            inspect(folder)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert peak(100) < peak(10) + 200_000  # a record is 80 KB
