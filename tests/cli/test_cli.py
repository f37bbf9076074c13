"""The command line: what it prints where, its exit status, and one clear line for every mistake."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_assistant import write_assistant, write_clip
from tiny_text_model import write_chat_model

from ringvision import cli
from ringvision.data.video import Limits
from ringvision.tokenize.manifest import ManifestRow

ROOT = Path(__file__).parents[2]
TOKENIZER_CONFIG = """
from ringvision.config import TokenizerTrainConfig
from ringvision.models.vqgan import VQGANConfig
config = TokenizerTrainConfig(name="a", out="b", vqgan=VQGANConfig(), data="c", steps=500)
"""


@pytest.fixture(scope="module", autouse=True)
def devices() -> int:
    """jax has started, with the eight devices of the test process: no command here makes others."""
    return jax.device_count()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_assistant(tmp_path_factory.mktemp("assistant"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def ringvision(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ringvision", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, **settings)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["ask"],
        ["tokenize"],
        ["tokens", "inspect"],
        ["data", "inspect"],
        ["reconstruct"],
        ["train"],
        ["watch"],
        ["evaluate", "world"],
        ["evaluate", "needle"],
        ["evaluate", "qa"],
        ["evaluate", "perplexity"],
        ["evaluate", "ruler"],
        ["evaluate", "tokenizer"],
        ["demo"],
        ["doctor"],
    ],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert not caught.value.code
    assert capsys.readouterr().out.startswith(" ".join(["usage: ringvision", *command]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["asj"], "did you mean ask?"),
        (["zzzzzz"], "there are ask, chat"),
        (["ask", "clip.mp4"], "QUESTION"),
        (["ask", "clip.mp4", "why?", "--devcies", "2"], "did you mean --devices?"),
        (["ask", "clip.mp4", "why?", "--devices", "0"], "expected a whole number from 1 upward"),
        (["ask", "clip.mp4", "why?", "--devices", "4096"], "4096 devices were asked for"),
        (["ask", "clip.mp4", "why?", "--fps", "nan"], "expected a number above 0"),
        (["ask", "clip.mp4", "why?", "--mesh", "contxt=2"], "did you mean context?"),
        (["ask", "clip.mp4", "why?", "--devices", "4", "--mesh", "context=3"], "4 devices"),
        (["ask", "clip.mp4", "why?", "--temperature", "-1"], "temperature -1"),
        (["ask", "clip.mp4", "why?", "--cache-dtype", "int9"], "--cache-dtype is 'int9': did you mean int8?"),
        (
            ["ask", "clip.mp4", "why?", "--explain", "out.gif"],
            "out.gif ends in .gif; give a name that ends in",
        ),
        (["ask", "clip.mp4", "why?", "--explain", "no/out.png"], "there is no folder no; make it first"),
        (["ask", "clip.mp4", "why?", "--follow"], "clip.mp4: no such file"),
        (["ask", "a.ts", "b.ts", "why?", "--follow"], "--follow reads one video, and 2 were given"),
        (["ask", "a.ts", "why?", "--follow", "--sessions", "x"], "leave one of them out"),
        (["ask", "clip.mp4", "why?", "--sessions-limit", "-3"], "expected a whole number from 1 upward"),
        (["ask", str(ROOT / "demos/clips/needle.mp4"), "why?", "--model", "nowhere"], "nowhere"),
        (["ask", "clip.mp4", "why?"], "clip.mp4: no such file"),
        (["ask", str(ROOT / "README.md"), "why?"], "README.md is not a video"),
        (["tokenize", "clip.mp4"], "--out"),
        (["tokenize", "clip.mp4", "--out", "x", "--tokenizer", "nowhere"], "nowhere"),
        (["tokenize", "clip.mp4", "--out", "x", "--engine", "rya"], "--engine is 'rya': did you mean ray?"),
        (
            ["tokenize", "clip.mp4", "--out", "x", "--retry", "everything"],
            "--retry is 'everything': there are failed",
        ),
        (["tokenize", "clip.mp4", "--out", "x", "--shard", "3/2"], "'3/2' was given, expected I/N"),
        (["tokenize", "clip.mp4", "--out", "x", "--max-side", "0"], "expected a whole number from 1 upward"),
        (["tokenize", "nothing*.mp4", "--out", "x"], "nothing*.mp4"),
        (["tokens", "inspect", "nowhere"], "nowhere"),
        (["data", "inspect", "no_such_config"], "no_such_config"),
        (["data", "inspect", "demo", "--stage", "-1"], "expected a whole number from 0 upward"),
        (["data", "inspect", "tokenizer_world16"], "holds a TokenizerTrainConfig"),
        (["data", "inspect", "demo", "--data.lenght", "5"], "did you mean --data.length?"),
        (["evaluate", "wrld"], "did you mean world?"),
        (["evaluate", "world", "--length", "14", "--devices", "1"], "14 seconds were given"),
        (["evaluate", "world", "--length", "60", "--examples", "5", "--devices", "1"], "at least 12"),
        (["evaluate", "world", "--out", "x"], "give --length"),
        (["evaluate", "needle", "--lengths", "60,14"], "14 seconds was given; expected 15 to 7200"),
        (["evaluate", "needle", "--lengths", "60,x"], "'60,x' was given, expected whole numbers with commas"),
        (["evaluate", "needle", "--lengths", "60,60"], "each once"),
        (["evaluate", "needle", "--depths", "0"], "expected a whole number from 1 upward"),
        (["evaluate", "needle", "--seeds", "0"], "expected a whole number from 1 upward"),
        (["evaluate", "needle", "--fps", "0.5"], "expected at least 1"),
        (["evaluate", "needle", "--mode", "txt"], "did you mean text?"),
        (["evaluate", "needle", "--mode", "text"], "give its folder as --model"),
        (["evaluate", "needle", "--mode", "text", "--model", "x", "--lengths", "10"], "at least 200"),
        (["evaluate", "needle", "--lengths", "7200", "--devices", "1"], "a video of 7200 seconds"),
        (["evaluate", "qa"], "QUESTIONS, --videos"),
        (["evaluate", "qa", "q.json", "--videos", "."], "q.json: no such file"),
        (["evaluate", "qa", "q.json", "--videos", ".", "--format", "mvsd-qa"], "did you mean msvd-qa?"),
        (["evaluate", "qa", "q.json", "--videos", ".", "--examples", "0"], "from 1 upward"),
        (["evaluate", "perplexity", "x.txt"], "--model"),
        (["evaluate", "perplexity", "x.txt", "--model", "nowhere", "--devices", "1"], "nowhere"),
        (
            ["evaluate", "perplexity", "x.txt", "--model", "x", "--length", "1"],
            "expected a whole number from 2",
        ),
        (["evaluate", "ruler"], "--model"),
        (["evaluate", "ruler", "--model", "x", "--lengths", "1000"], "expected at least 1024"),
        (["evaluate", "ruler", "--model", "x", "--tasks", "vt", "qa"], "RULER has no task 'qa' here"),
        (["evaluate", "ruler", "--model", "x", "--against", "nowhere"], "nowhere/result.json"),
        (["evaluate", "ruler", "--model", "nowhere", "--devices", "1"], "nowhere"),
        (
            ["evaluate", "needle", "--lengths", "60", "--out", "/dev/null/x", "--devices", "1"],
            "cannot be written",
        ),
        (["train", "no_such_config"], "no_such_config"),
        (["demo", "--port", "x"], "--port"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(arguments, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ringvision: ")
    assert err.count("\n") == 1
    assert says in err
    assert os.listdir(tmp_path) == []


def test_ask_goes_on_from_what_another_ask_has_read(model, clip, capsys, tmp_path):
    """With any type of cache; a damaged file is a line on stderr, and then it is as it was before."""
    request = ["ask", str(clip), "What colour was the circle?", "--model", str(model), "--max-tokens", "6"]
    request += ["--devices", "1", "--json", "--cache-dtype", "int8", "--sessions", str(tmp_path / "kept")]
    found = []
    for _ in range(3):
        assert cli.main(request) == 0
        out, err = capsys.readouterr()
        found.append((json.loads(out), err.count("\n")))
        (path,) = (tmp_path / "kept").iterdir()
        if len(found) == 2:
            path.write_bytes(path.read_bytes()[:-1])
    answers, lines = zip(*found)
    assert answers[0]["tokens"] == answers[1]["tokens"] == answers[2]["tokens"]
    assert [answer["seconds"]["decode"] > 0 for answer in answers] == [True, False, True]
    assert all(answer["seconds"]["session"] > 0 for answer in answers)
    assert lines == (2, 2, 3)
    assert cli.main([*request, "--sessions-limit", "1000"]) == 0
    assert "--sessions-limit is 1000" not in capsys.readouterr().err  # what is there is used


def test_ask_streams_the_answer_and_says_what_it_does(model, clip, capsys):
    request = ["ask", str(clip), "What colour was the circle?", "--model", str(model), "--max-tokens", "12"]
    assert cli.main([*request, "--devices", "1", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone.keys() == {
        "answer",
        "tokens",
        "frames",
        "video_tokens",
        "devices",
        "finish",
        "probability",
        "spans",
        "warnings",
        "seconds",
    }
    assert alone["finish"] in ("stop", "length", "repeated", "empty")
    assert 0 < alone["probability"] <= 1
    assert alone["devices"] == 1
    assert alone["frames"] > 1
    assert {"load", "total"} <= alone["seconds"].keys()

    assert cli.main([*request, "--devices", "4", "--json"]) == 0
    ring = json.loads(capsys.readouterr().out)
    assert (ring["devices"], ring["tokens"], ring["answer"]) == (4, alone["tokens"], alone["answer"])

    assert cli.main([*request, "--mesh", "context=2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == alone["answer"]
    assert "2 cpu devices, a ring of 2" in err
    assert f"{alone['frames']} frames" in err
    assert f"{alone['video_tokens']} tokens" in err


def test_ask_follows_a_file_to_its_end_or_to_ctrl_c(model, clip, capsys, monkeypatch):
    """A complete file: what reading it at once gives, after a moment, or at once where someone interrupts."""
    request = ["ask", str(clip), "What colour was the circle?", "--model", str(model), "--max-tokens", "6"]
    request += ["--devices", "1", "--json"]
    assert cli.main(request) == 0
    expected = json.loads(capsys.readouterr().out)
    assert cli.main([*request, "--follow", "--follow-quiet", "0.2"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [found[name] for name in ("answer", "tokens", "frames", "spans")] == [
        expected[name] for name in ("answer", "tokens", "frames", "spans")
    ]
    assert f"followed to {found['frames']} s" in err
    monkeypatch.setattr("ringvision.infer.follow.time.sleep", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert cli.main([*request, "--follow", "--follow-quiet", "1000"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == expected["tokens"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("given", [["--devices", "3"], []])
def test_devices_are_made_of_a_cpu(given, model, clip, tmp_path):
    """In a process of its own, with a cache of its own: jax starts with what --devices says, or a device for
    each core.
    """
    expected = 3 if given else min(8, len(os.sched_getaffinity(0)))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = ringvision(
        "ask",
        clip,
        "Which digit?",
        "--model",
        model,
        *given,
        "--max-tokens",
        "2",
        "--json",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == expected
    assert expected == 1 or f"a ring of {expected}" in done.stderr
    assert list(tmp_path.glob("ringvision/jax-*/*")), "compiled programs are kept for the next time"


@pytest.mark.parametrize(("failed", "status"), [(0, 0), (1, 1)])
def test_tokenize_names_what_failed_and_says_so_by_its_status(failed, status, capsys, monkeypatch, model):
    settings = {
        "size": None,
        "batch": 64,
        "workers": None,
        "engine": "local",
        "ray_address": None,
        "format": "jsonl",
        "shard_size": 256,
        "variants": 3,
    }
    settings |= {
        "limit": None,
        "decoder": "auto",
        "part": (2, 3),
        "retry_failed": True,
        "limits": Limits(max_side=640),
        "fps": 2.0,
    }

    def tokenize_videos(inputs, out, tokenizer, *, progress, **given):
        assert (inputs, out, tokenizer, given) == (["a", "b"], "codes", model / "video_tokenizer", settings)
        progress.start(2)
        progress.encoded(7)
        progress.settled(ManifestRow(0, "a", "", status="done", frames=7), True)
        if failed:
            progress.settled(
                ManifestRow(1, "b", "", status="failed", kind="not-video", message="b is not a video"), True
            )
        return {"done": 2 - failed, "failed": failed, "pending": 0, "frames": np.int64(7), "seconds": 0.5}

    monkeypatch.setattr("ringvision.tokenize.tokenize_videos", tokenize_videos)
    request = [
        "tokenize",
        "a",
        "b",
        "--out",
        "codes",
        "--tokenizer",
        str(model / "video_tokenizer"),
        "--fps",
        "2",
    ]
    request += [
        "--shard",
        "2/3",
        "--variants",
        "3",
        "--retry",
        "failed",
        "--max-side",
        "640",
        "--format",
        "jsonl",
    ]
    assert cli.main([*request, "--json"]) == status
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "done": 2 - failed,
        "failed": failed,
        "pending": 0,
        "frames": 7,
        "seconds": 0.5,
    }
    assert err == "b: not-video: b is not a video\n" * failed
    assert cli.main(request) == status
    assert capsys.readouterr().out.startswith(f"{2 - failed} done, {failed} failed, 0 pending, 7 frames")


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
        "12",
        "--devices",
        "1",
    ]
    monkeypatch.setattr("ringvision.evaluate.long_world.BLIND_SECONDS", 300)
    assert cli.main([*long, "--out", str(tmp_path / "world"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"].keys() >= {"needle", "no_card", "when", "absent"}
    assert len((tmp_path / "world" / "results.jsonl").read_text().splitlines()) == 12


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


def test_train_takes_typed_overrides_and_the_right_kind_of_config(capsys, monkeypatch, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TOKENIZER_CONFIG)
    trained = []
    monkeypatch.setattr("ringvision.train.tokenizer.train_tokenizer", trained.append)
    assert cli.main(["train-tokenizer", str(path), "--optimizer.lr", "0.5", "--vqgan.channels", "32"]) == 0
    assert (trained[0].optimizer.lr, trained[0].vqgan.channels) == (0.5, 32)
    assert trained[0].steps == 500
    assert cli.main(["train-tokenizer", str(path), "--stps", "5"]) == 2
    assert "did you mean --steps?" in capsys.readouterr().err
    assert cli.main(["train", str(path)]) == 2
    assert "use `ringvision train-tokenizer" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train-tokenizer", str(path), "--help"])
    assert "--vqgan.channels" in capsys.readouterr().out
    assert len(trained) == 1


def test_doctor_finds_what_works(capsys):
    assert cli.main(["doctor", "--json"]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["jax"]
    assert report["devices"]["count"] == 8
    assert report["memory"]["total_gib"] > 0.5
    assert report["codecs"]["av"]
    assert 0 <= report["codecs"]["h264"] < 10
    assert all(len(file["sha256"]) == 64 for file in report["shipped"])
    cli.main(["doctor"])
    assert "written and read back" in capsys.readouterr().out


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import sys, time\nprint('ready', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "ringvision", "train", str(path)]
    # Where the tests run in the background of a shell, SIGINT is ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "ringvision: interrupted; the same command goes on from the last thing it saved\n"


def test_a_reader_that_leaves_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ringvision", "doctor"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_memory_that_runs_out_is_one_line(capsys, monkeypatch):
    def run(arguments):
        raise MemoryError

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["doctor"]) == 2
    assert "--fps" in capsys.readouterr().err
