"""What `data inspect` says of a run: the figures are those of the rows that the run gets."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import config

from ringvision import cli
from ringvision.config import StageConfig, TrainConfig
from ringvision.data.sources import TextData
from ringvision.errors import UserError
from ringvision.train.data_report import describe
from ringvision.train.inputs import open_data
from ringvision.train.inspect_data import inspect_data


def mixed(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """Videos, and twice as many tokens of text: short lines, one of many rows, an empty and a bad one."""
    lines = [{"text": f"the red square {n} is moving to the left"} for n in range(120)]
    lines += [{"text": "the blue circle moves " * 300}, {"text": ""}, {"text": 3}]
    path = out / "text.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = config(data, out, source={"vision_weight": 0.5})
    sources = (*run.data.sources, TextData(str(path), weight=2.0))
    return dataclasses.replace(run, data=dataclasses.replace(run.data, sources=sources), **changes)


def test_figures_are_those_of_the_rows_of_the_run(data: Path, tmp_path: Path) -> None:
    run = mixed(data, tmp_path)
    report = inspect_data(run, rows=40)
    _, loader = open_data(run)
    batches = loader.batches()
    rows = [next(batches).batch for _ in range(10)]
    batches.close()
    filled = np.concatenate([(batch.segment_ids > 0).mean(1) for batch in rows])
    assert report["fill"] == pytest.approx(filled.mean())
    assert report["least_fill"] == pytest.approx(filled.min())
    assert report["pieces_a_row"] == pytest.approx(np.mean([batch.segment_ids.max(1) for batch in rows]))
    codes = 560  # of the text model's size are the ids of text
    weights = np.array([[b.loss_weights[b.targets < codes].sum(), b.loss_weights.sum()] for b in rows]).sum(0)
    assert report["loss"]["text"] == pytest.approx(weights[0] / weights[1], rel=1e-5)
    assert report["loss"]["text"] + report["loss"]["vision"] == pytest.approx(1)

    videos, text = report["sources"]
    assert (videos["kind"], text["kind"]) == ("WorldData", "TextData")
    for what in ("wanted", "tokens", "examples", "loss"):
        assert videos["share"][what] + text["share"][what] == pytest.approx(1)
    assert text["share"]["wanted"] == pytest.approx(2 / 3)
    assert text["share"]["tokens"] == pytest.approx(2 / 3, abs=0.1)
    assert text["loss"] == {"text": 1.0, "vision": 0.0} and videos["loss"]["vision"] > 0
    assert (videos["documents"], videos["read"], videos["bad"]) == (24, 24, 0)
    assert (text["documents"], text["read"]) == (123, 123)
    assert (text["bad"], text["empty"], text["longer"]) == (1, 1, 1)
    assert "text.jsonl, record 123: text is a int" in text["named"][0]
    (notice,) = [notice for notice in report["notices"] if "token_weight=" in notice]
    even = float(notice.split("token_weight=")[1].split()[0])
    (first, second) = run.data.sources
    sources = (first, dataclasses.replace(second, token_weight=even))
    even_run = dataclasses.replace(run, data=dataclasses.replace(run.data, sources=sources))
    again = inspect_data(even_run, rows=40)
    assert not any("token_weight=" in notice for notice in again["notices"])
    share = again["sources"][1]["share"]
    assert share["loss"] == pytest.approx(share["tokens"], abs=0.02)
    assert text["lengths"]["min"] <= text["lengths"]["median"] < 192 < text["lengths"]["max"]


def test_documents_are_shown_in_words(data: Path, tmp_path: Path) -> None:
    report = inspect_data(mixed(data, tmp_path), rows=1, examples=3)
    assert [example["source"] for example in report["examples"]] == [str(data / "codes")] * 3 + [
        str(tmp_path / "text.jsonl")
    ] * 3
    assert all("«[video of" in example["text"] for example in report["examples"][:3])
    assert report["examples"][3]["text"].startswith("<s>«the ")
    said = describe(report)
    assert "WorldData codes" in said and "TextData text.jsonl" in said and "record 123" in said
    assert all(line.isprintable() for line in said.split("\n"))


def test_a_stage_is_looked_at(data: Path, tmp_path: Path) -> None:
    run = mixed(data, tmp_path)
    stages = (StageConfig(steps=2), StageConfig(steps=2, length=128, sources=run.data.sources[1:]))
    run = dataclasses.replace(run, steps=0, stages=stages)
    assert [len(inspect_data(run, rows=2)["sources"]), inspect_data(run, rows=2)["length"]] == [2, 192]
    later = inspect_data(run, rows=2, stage=1)
    assert [source["kind"] for source in later["sources"]] == ["TextData"] and later["length"] == 128
    with pytest.raises(UserError, match="stage 2: the run has 2, numbered from 0"):
        inspect_data(run, stage=2)


def test_what_cannot_be_shown_is_said(data: Path, tmp_path: Path) -> None:
    run = mixed(data, tmp_path)
    for out, says in (("sheet.jpg", "ends in .jpg"), ("sheet.png", "no video tokenizer 'none'")):
        with pytest.raises(UserError, match=says):
            inspect_data(run, rows=1, out=tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.jsonl"]


CONFIG = """
from ringvision.config import TrainConfig
from ringvision.data.sources import DataConfig, TextData
config = TrainConfig(
    name="words", out="never", init_from={model!r}, steps=300,
    data=DataConfig(sources=(TextData({path!r}),), length=64, rows=2),
)
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """On the shipped model, whose shape and words the config need not name."""
    model = str(Path(__file__).parents[2] / "demos" / "model")
    (tmp_path / "notes.txt").write_text("one red square")
    (tmp_path / "run.py").write_text(CONFIG.format(model=model, path=str(tmp_path / "notes.txt")))
    monkeypatch.chdir(tmp_path)
    words = ["data", "inspect", "run.py", "--rows", "2", "--data.length", "32"]
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["length"], len(report["examples"])) == (2, 32, 1)
    assert report["examples"][0]["text"] == "<s>«one red square</s>»"
    assert cli.main([*words, "--out", "sheet.html"]) == 0
    assert "notes.txt, document 0" in capsys.readouterr().out
    assert "one red square" in (tmp_path / "sheet.html").read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.py", "sheet.html"]
    assert cli.main([*words, "--data", "missing"]) == 2
    assert "missing: no such file or folder" in capsys.readouterr().err
