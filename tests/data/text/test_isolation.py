"""Other projects' text tokenizers are read in a process of their own: what they are made to do there ends as
one line, and in time.
"""

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2

from ringvision.data.text.folder import load_text_tokenizer, save_text_tokenizer
from ringvision.data.text.isolation import client
from ringvision.data.text.isolation.client import IsolatedTokenizer
from ringvision.data.text.isolation.hugging_face import HuggingFaceTokenizer, byte_letters
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer, train_text_tokenizer
from ringvision.errors import UserError

STEP = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {
            "id": 256,
            "content": "<e>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "pre_tokenizer": STEP,
    "decoder": STEP,
    "model": {
        "type": "BPE",
        "vocab": {letter: byte for byte, letter in enumerate(byte_letters())},
        "merges": [],
    },
}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": steps}


def folder_of(folder: Path, described: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return folder


WITHOUT_END = "does not come to an end within 1 s"
HOSTILE: dict[str, tuple[dict[str, Any], str, str]] = {
    "a pattern that tries all ways": (
        {"pre_tokenizer": split("(a+)+$")},
        "a" * 40 + "b",
        f"{WITHOUT_END}|fails",
    ),
    "a pattern that tries all lengths": (
        {"pre_tokenizer": split(r"(a+)\1+\1+$")},
        "a" * 3000 + "b",
        WITHOUT_END,
    ),
    "text that doubles sixty times": (
        {"normalizer": sequence([replace("a", "aa")] * 60)},
        "a",
        f"{WITHOUT_END}|ended the process|needs more",
    ),
    "text that fills memory at once": (
        {"normalizer": sequence([replace("a", "a" * 1000)] * 4)},
        "a",
        f"{WITHOUT_END}|ended the process|needs more",
    ),
    "nothing that becomes something": ({"normalizer": replace("", "x")}, "hello", "fails"),
    "a table that leads outside itself": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////9hYmMA"}},
        "hello",
        "fails",
    ),
    "pieces of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "hello", "fails"),
    "white space around each of many": (
        {
            "added_tokens": [
                {
                    **PLAIN["added_tokens"][0],
                    "id": 256 + number,
                    "content": f"<{number}>",
                    "lstrip": True,
                    "rstrip": True,
                }
                for number in range(5000)
            ]
        },
        " " * 9000 + "a",
        WITHOUT_END,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_an_error_and_no_more(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SECONDS", 1.0)
    changes, written, said = HOSTILE[name]
    began = time.monotonic()
    with pytest.raises(UserError, match=said):
        load_text_tokenizer(folder_of(tmp_path, PLAIN | changes)).encode_marked(written)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({**PLAIN, "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "fails"),
        ({**PLAIN, "x": json.loads("[" * 70 + "]" * 70)}, "nested"),
        ({**PLAIN, "decoder": [1]}, "no tokenizer that"),
        ({**PLAIN, "model": {**PLAIN["model"], "vocab": {"a": 2**32 - 1}}}, "expected 1 to 1048576 ids"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_an_error(described: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_text_tokenizer(folder_of(tmp_path, described))


def test_reading_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    described = copy.deepcopy(PLAIN)
    described["added_tokens"][0] |= {"content": "a" * 20_000_000, "lstrip": True}
    with pytest.raises(UserError, match="ended the process|needs more|does not come to an end"):
        load_text_tokenizer(folder_of(tmp_path, described)).encode_marked("a")


def test_it_reads_as_the_library_does_and_again_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SECONDS", 1.0)
    steps = {"type": "Sequence", "pretokenizers": [split(r"(a+)\1+\1+$"), {**STEP, "use_regex": False}]}
    text = IsolatedTokenizer(folder_of(tmp_path, {**PLAIN, "pre_tokenizer": steps}) / "tokenizer.json")
    here = HuggingFaceTokenizer(tmp_path)
    assert (text.size, text.bos, text.eos, text.specials) == (here.size, here.bos, here.eos, here.specials)
    for written in ("", "Hi", "é<e>\n", "<e><e>"):
        assert text.encode(written) == here.encode(written)
        assert text.encode_marked(written) == here.encode_marked(written)
        assert text.protect(written, "\ufdd0") == here.protect(written, "\ufdd0")
        assert text.decode(text.encode(written)) == written
    with pytest.raises(UserError, match=WITHOUT_END):
        text.encode("a" * 3000 + "b")
    assert text.encode("Hi") == here.encode("Hi")


def test_the_process_is_bounded_and_ends_with_the_tokenizer(tmp_path: Path) -> None:
    text = IsolatedTokenizer(folder_of(tmp_path, PLAIN) / "tokenizer.json")
    assert text._process is not None
    child = text._process._child
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert (
        soft["Max open files"],
        soft["Max file size"],
        soft["Max core file size"],
        soft["Max processes"],
    ) == ("0", "0", "0", "0")
    assert int(soft["Max address space"]) == 2 << 30
    text._process = None
    assert child.poll() is not None


@pytest.mark.parametrize("link", [lambda folder: "/etc/passwd", lambda folder: str(folder / "private")])
def test_a_link_to_what_is_private_is_not_copied(link: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "private").write_text("{}")
    (tmp_path / "model").mkdir()
    (folder_of(tmp_path / "model", PLAIN) / "generation_config.json").symlink_to(link(tmp_path))
    with pytest.raises(UserError, match=r"generation_config\.json lies elsewhere"):
        save_text_tokenizer(tmp_path / "model", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_what_hugging_face_keeps_is_copied(tmp_path: Path) -> None:
    """It keeps files as blobs, and a snapshot of links to them."""
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (folder_of(blobs, PLAIN) / "tokenizer.json").rename(blobs / "0a")
    (snapshot / "tokenizer.json").symlink_to(os.path.relpath(blobs / "0a", snapshot))
    assert save_text_tokenizer(snapshot, tmp_path / "dest") == ["tokenizer.json"]


def test_a_text_model_of_ours_that_changes_text_or_spells_no_unicode_is_refused(tmp_path: Path) -> None:
    good = train_text_tokenizer(["hello world"] * 9, tmp_path / "text.model", 400).serialized
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(good)
    model.normalizer_spec.precompiled_charsmap = b"\4\0\0\0" + b"\xff" * 4 + b"a\0"
    (tmp_path / "text.model").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="normalises text"):
        LosslessTokenizer(tmp_path / "text.model")
    (tmp_path / "text.model").write_bytes(good.replace(b"hello", b"hell\xff"))
    with pytest.raises(UserError, match="not a sentencepiece model"):
        LosslessTokenizer(tmp_path / "text.model")
