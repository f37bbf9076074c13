"""The fuzzer counts what it read, and stops at the first thing that is no UserError."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import fuzz_readers as "
    "script; script.steered = False; "
)


def run(code: str, kind: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        f"{START}{code}; sys.exit(script.main())",
        "--reader",
        kind,
        "--seconds",
        "0.5",
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_changed_files_are_read_and_counted(tmp_path: Path) -> None:
    done = run("pass", "safetensors", tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["files"] > said["whole"] > 0 and said["longest_s"] < 10
    assert not [*tmp_path.iterdir()]


def test_another_exception_ends_it_and_the_file_is_kept(tmp_path: Path) -> None:
    done = run(
        "script.TEMPLATES[:] = ['{{ 1 }}']; script.ChatTemplate.render = lambda *_: 1 / "
        "(len(_[0].source) - 8)",
        "template",
        tmp_path,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert len((tmp_path / "finding-template").read_bytes()) == 8
