"""The comparison of rings runs, and what it writes of our own says that they are exact. Peers are not
installed here.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ["ringvision", "ringvision-one"]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "bench_ring.py", "--devices", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_times_memory_and_errors_of_our_own(tmp_path):
    shape = ["--length", "512", "--heads", "4", "--kv-heads", "2", "--head-dim", "16", "--repeats", "1"]
    done = bench(*shape, "--only", *OURS, "--json", tmp_path / "ring.json", "--plot", tmp_path / "ring.svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 512 | ringvision") == 2 and "failed" not in done.stdout
    report = json.loads((tmp_path / "ring.json").read_text())
    assert report["machine"]["cores"] >= 1 and report["machine"]["jax"][0].isdigit()
    assert report["skipped"] == {}
    assert [(result["name"], result["devices"]) for result in report["results"]] == [
        ("ringvision", 2),
        ("ringvision-one", 1),
    ]
    for result in report["results"]:
        assert result["failed"] == ""
        assert set(result["errors"]) == {"out", "dq", "dk", "dv"}
        assert all(0 <= error < 1e-5 for error in result["errors"].values()), result["errors"]
        for which in ("forward", "both"):
            assert result["seconds"][which] > 0 and result["processor_seconds"][which] > 0
            assert (
                result["temporary_bytes"][which]
                == result["devices"] * result["temporary_bytes_of_a_device"][which]
                > 0
            )
    assert (tmp_path / "ring.svg").stat().st_size > 1000


def test_memory_by_length(tmp_path):
    done = bench("--million", "--length", "512", "1024", "--json", tmp_path / "million.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "million.json").read_text())["results"]
    assert [result["length"] for result in results] == [512, 1024]
    for result in results:
        assert set(result["seconds"]) == {"both"} and result["resident_over_time"]
        assert all(0 <= error < 1e-5 for error in result["errors"].values()), result["errors"]


def test_what_cannot_be_split_is_refused():
    done = bench("--length", "511")
    assert done.returncode == 2 and "twice the devices" in done.stderr
