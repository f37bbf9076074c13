"""`ringvision ask`: what it prints, what it goes on from, and on which devices."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringvision import cli

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("devices")


def ringvision(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ringvision", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, **settings)


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
