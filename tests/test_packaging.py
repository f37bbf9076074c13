"""What an installation gets: declared dependencies, pinned versions, what is shipped in the wheel; and a
set-up that explains itself.
"""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ringvision
from ringvision import shipped
from ringvision.errors import UserError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What a dependency is called where it is imported, when that differs from its name in the registry.
IMPORTED_AS = {
    "pillow": "PIL",
    "protobuf": "google",
    "pyyaml": "yaml",
    "tensorflow-datasets": "tensorflow_datasets",
}
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]


def names(requirements: list[str]) -> set[str]:
    """Without versions and extras: "ray[data]>=2.50" is "ray"."""
    return {re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0] for requirement in requirements}


def imported(folder: str) -> set[str]:
    """Every package from outside that the files of a folder import."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"ringvision"}


def test_whatever_is_imported_is_declared():
    declared = {IMPORTED_AS.get(name, name) for name in names(PROJECT["project"]["dependencies"])}
    declared |= {"ray", "wandb", "lmms_eval", "jaxlib"}  # extras, and what jax itself brings
    for folder in ("ringvision", "demos", "configs"):
        undeclared = imported(folder) - declared
        assert not undeclared, f"{folder}/ imports {sorted(undeclared)}"


def test_whatever_is_declared_is_pinned():
    pinned = {name.lower() for name in names(CONSTRAINTS)}
    extras = PROJECT["project"]["optional-dependencies"]
    for requirements in (PROJECT["project"]["dependencies"], extras["dev"], extras["ray"]):
        assert {name.lower() for name in names(requirements)} <= pinned


def test_constraints_are_versions_and_nothing_else():
    for line in CONSTRAINTS:
        assert re.fullmatch(
            r'[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*( ; python_version (<|>=) "3\.\d+")?', line
        ), line


def test_jax_is_the_one_that_this_python_can_have():
    version = importlib.metadata.version("jax")
    assert version.startswith("0.10." if sys.version_info < (3, 12) else "0.12.")
    assert any(line.startswith(f"jax=={version}") for line in CONSTRAINTS)


def test_the_version_is_said_once():
    assert PROJECT["project"]["version"] == ringvision.__version__


def test_the_public_face_is_lazy_and_complete():
    assert set(ringvision.__all__) <= set(dir(ringvision))
    for name in ringvision.__all__:
        assert callable(getattr(ringvision, name))
    with pytest.raises(AttributeError, match="ask_me"):
        ringvision.ask_me  # noqa: B018


def test_a_wheel_holds_what_is_shipped_and_gives_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.glob("ringvision-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        scripts = next(archive.read(name).decode() for name in held if name.endswith("entry_points.txt"))
    assert "ringvision = ringvision.cli:main" in scripts
    assert "[lmms_eval.models]\nringvision = ringvision.evaluate.lmms_eval_manifest:manifest" in scripts
    tracked = subprocess.run(
        ["git", "ls-files", "tokenizers", "demos", "configs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.split():
        assert f"ringvision/_shipped/{name}" in held
    assert {"ringvision/cli/__init__.py", "ringvision/cli/ask.py", "ringvision/ops/ring.py"} <= held
    assert not [name for name in held if name.startswith(("tests/", "runs/")) or "__pycache__" in name]
    assert wheel.stat().st_size < 64 * 2**20


@pytest.mark.parametrize("name", shipped.FOLDERS)
def test_shipped_folders_are_found_in_the_checkout(name):
    assert shipped.folder(name) == ROOT / name


def test_shipped_folders_are_found_in_an_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "ringvision")
    with pytest.raises(UserError, match="lacks its folder demos"):
        shipped.folder("demos")
    inside = tmp_path / "ringvision" / "_shipped"
    for name in ("small", "large"):
        (inside / "tokenizers" / name).mkdir(parents=True)
        (inside / "tokenizers" / name / "config.json").touch()
    (inside / "demos").mkdir()
    assert shipped.folder("demos") == inside / "demos"
    assert shipped.tokenizer("small") == inside / "tokenizers" / "small"
    assert shipped.tokenizer(str(inside / "tokenizers" / "large")) == inside / "tokenizers" / "large"
    with pytest.raises(UserError, match="shipped are large, small"):
        shipped.tokenizer("medium")
    with pytest.raises(UserError, match="--model DIR"):
        shipped.default_tokenizer()
    (inside / "demos" / "model").mkdir()
    (inside / "demos" / "model" / "config.json").write_text('{"video_tokenizer": "large"}')
    assert shipped.default_tokenizer() == inside / "tokenizers" / "large"


def fake_python(path: Path, *, old: bool = False, venv: bool = True) -> Path:
    """A python3 that answers as one that is too old, or that lacks venv, would."""
    path.write_text(
        f"""#!/bin/sh
case "$*" in
    *"sys.exit(sys.version_info"*) exit {int(old)} ;;
    *"import ensurepip, venv"*) exit {int(not venv)} ;;
    *"print("*) echo 3.12 ;;
    --version) echo Python 3.9.2 ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ({"old": True}, "Python 3.9.2 is too old; ringvision needs Python 3.11 or newer"),
        ({"venv": False}, "install the package python3.12-venv"),
        (None, "there is no"),
    ],
)
def test_make_says_what_python_lacks(tmp_path, python, says):
    path = tmp_path / "python"
    if python is not None:
        fake_python(path, **python)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "ask", f"PYTHON={path}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_runs_the_tests_the_lint_and_the_types():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert all(word in script.read_text() for word in ("make test", "ruff check", "mypy"))
