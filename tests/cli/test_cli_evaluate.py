"""`ringvision evaluate` and `reconstruct`: what they hand on, print and keep."""

import json
import shlex

import pytest
from tiny_text_model import write_chat_model

from ringvision import cli

pytestmark = pytest.mark.usefixtures("devices")


def test_reconstruct_reports_numbers(capsys, monkeypatch, model):
    result = {"frames": 3, "psnr": 21.5, "ssim": float("nan"), "seconds": 0.1}
    monkeypatch.setattr(
        "ringvision.evaluate.reconstruction.reconstruct", lambda video, out, tokenizer, fps: result
    )
    request = ["reconstruct", "in.mp4", "out.mp4", "--tokenizer", str(model / "video_tokenizer")]
    assert cli.main([*request, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"frames": 3, "psnr": 21.5, "ssim": None, "seconds": 0.1}
    assert cli.main(request) == 0
    assert "psnr                 21.5" in capsys.readouterr().out


def test_evaluate_world_prints_each_kind_beside_chance_and_blind(capsys, monkeypatch, model):
    score = {"accuracy": 0.9, "examples": 4, "chance": 0.25, "blind": 0.3}
    result = {"overall": 0.9, "examples": 4, "chance": 0.25, "blind": 0.3, "kinds": {"colour": score}}
    asked = {}
    types = []

    def evaluate_world(assistant, **settings):
        asked.update(settings)
        types.append(assistant.model.params["embed"]["table"].dtype.name)
        return result

    monkeypatch.setattr("ringvision.evaluate.world.evaluate_world", evaluate_world)
    request = ["evaluate", "world", "--model", str(model), "--examples", "4", "--seed", "9", "--devices", "1"]
    assert cli.main([*request, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert asked == {"examples": 4, "seed": 9, "fps": 1.0}
    assert cli.main([*request, "--dtype", "bfloat16"]) == 0
    assert types == ["float32", "bfloat16"]
    assert "colour                  90.0%    25.0%    30.0%        4" in capsys.readouterr().out


def test_evaluate_needle_and_long_videos_from_the_command_line(capsys, monkeypatch, model, tmp_path):
    """Of the tiny assistant, whose answers are wrong; what counts is that they are asked and kept."""
    request = [
        "evaluate",
        "needle",
        "--model",
        str(model),
        "--lengths",
        "15",
        "--depths",
        "1",
        "--seeds",
        "1",
    ]
    request += ["--devices", "1", "--out", str(tmp_path / "needle")]
    assert cli.main([*request, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() >= {"accuracy", "cells", "no_card", "when", "chance", "record"}
    assert [(cell["seconds"], cell["depth"]) for cell in result["cells"]] == [(15, 0.5)]
    (run,) = result["record"]["runs"]
    words = shlex.split(run["command"])
    assert words[:3] == ["ringvision", "evaluate", "needle"] and sorted(words[1:]) == sorted(
        [*request, "--json"]
    )
    assert len(result["record"]["model"]) == 64
    assert cli.main(request) == 0
    out, err = capsys.readouterr()
    assert "| depth | 15 seconds |" in out and "3 of 3 questions were answered before" in err
    assert cli.main([*request, "--seed", "1"]) == 2
    assert "seed is 0 there and is 1 here" in capsys.readouterr().err
    long = [
        "evaluate",
        "world",
        "--model",
        str(model),
        "--length",
        "15",
        "--examples",
        "13",
        "--devices",
        "1",
    ]
    monkeypatch.setattr("ringvision.evaluate.long_world.BLIND_SECONDS", 300)
    assert cli.main([*long, "--out", str(tmp_path / "world"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"].keys() >= {"needle", "no_card", "when", "absent"}
    assert len((tmp_path / "world" / "results.jsonl").read_text().splitlines()) == 13


def test_evaluate_qa_from_the_command_line(capsys, model, clip, tmp_path):
    """Of the tiny assistant; a missing video, and a file that is none, are named, and the status is 1."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "vid1.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "videos" / "vid2.avi").write_bytes(b"RIFF not a video")
    rows = [
        {"id": number, "video_id": video, "question": f"what is {number}?", "answer": "x"}
        for number, video in enumerate((1, 2, 3, 1))
    ]
    questions = tmp_path / "test_qa.json"
    questions.write_text(json.dumps(rows))
    request = ["evaluate", "qa", str(questions), "--videos", str(tmp_path / "videos"), "--model", str(model)]
    request += ["--max-tokens", "4", "--devices", "1", "--out", str(tmp_path / "out")]
    assert cli.main([*request, "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "1 of 3 videos are not there, such as 3" in err
    assert (result["examples"], result["accuracy"], result["open"]) == (2, 0.0, 0.0)
    assert result["missing"] == {"videos": ["3"], "questions": 1}
    assert result["unreadable"].keys() == {"2"} and "vid2.avi" in result["unreadable"]["2"]
    assert result["record"]["pixels"] == 16 and result["record"]["read"]["frames"] >= 2
    words = shlex.split(result["record"]["runs"][0]["command"])
    assert sorted(words) == sorted(["ringvision", *request, "--json"])
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2
    questions.write_text(json.dumps(rows[:1]))
    assert cli.main(request[:-2]) == 0
    assert "msvd-qa: 0.0% of 1 questions right." in capsys.readouterr().out
    questions.write_text("[]")
    assert cli.main(request) == 2
    assert "holds no question" in capsys.readouterr().err


def test_evaluate_ruler_from_the_command_line(capsys, tmp_path):
    """Of a tiny text model, whose answers are wrong; what counts is that it is asked at the right length."""
    folder = write_chat_model(tmp_path / "text", max_length=3072)
    request = ["evaluate", "ruler", "--model", str(folder), "--tasks", "niah_single_1", "vt"]
    request += ["--lengths", "3072", "--examples", "1", "--devices", "1", "--out", str(tmp_path / "out")]
    assert cli.main([*request, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["effective_length"] is None and result["lengths"][0]["tasks"].keys() == {
        "niah_single_1",
        "vt",
    }
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [2800 < row["tokens"] <= 3072 - room for row, room in zip(rows, (128, 30))] == [True, True]
    words = shlex.split(result["record"]["runs"][0]["command"])
    assert sorted(words) == sorted(["ringvision", *request, "--json"])
    assert cli.main([*request, "--against", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "| average | 0.0% |" in out and "2 of 2 questions were answered before" in err
    assert f"| | this run | {tmp_path / 'out'} |" in out
    assert cli.main(["evaluate", "ruler", "--model", str(folder), "--devices", "1"]) == 2
    assert "the model reads 3072 tokens, and RULER begins at 4096" in capsys.readouterr().err


def test_evaluate_perplexity_from_the_command_line(capsys, tmp_path):
    folder = write_chat_model(tmp_path / "text")
    (tmp_path / "a.txt").write_text("The river is wide.")
    request = ["evaluate", "perplexity", str(tmp_path / "a.txt"), "--model", str(folder), "--devices", "1"]
    assert cli.main([*request, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == 19 and result["record"]["length"] == 256
    assert cli.main(request) == 0
    assert "of 19 tokens in 1 documents." in capsys.readouterr().out
    assert cli.main([*request, "--length", "257"]) == 2
    assert "the model reads 256; give a shorter --length" in capsys.readouterr().err
