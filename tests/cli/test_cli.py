"""The command line: what it prints where, its exit status, and one clear line for every mistake.

What `ask` and `evaluate` do is in test_cli_ask.py and test_cli_evaluate.py.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ringvision import cli
from ringvision.data.video import Limits
from ringvision.tokenize.manifest import ManifestRow

pytestmark = pytest.mark.usefixtures("devices")

ROOT = Path(__file__).parents[2]
TOKENIZER_CONFIG = """
from ringvision.config import TokenizerTrainConfig
from ringvision.models.vqgan import VQGANConfig
config = TokenizerTrainConfig(name="a", out="b", vqgan=VQGANConfig(), data="c", steps=500)
"""


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
        (["evaluate", "world", "--length", "60", "--examples", "5", "--devices", "1"], "at least 13"),
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
