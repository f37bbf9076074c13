"""The style report finds what it counts in small sources, and runs on this checkout."""

import subprocess
import sys
from pathlib import Path

import pytest
from duplicated_passages import duplicated_passages
from style_report import style_report

ROOT = Path(__file__).parents[2]
SHAPES = "public array functions without shapes"
ARGS = "public functions of 4 and more parameters without Args"


@pytest.fixture
def write(tmp_path):
    """Writes a file of the checkout that is measured; gives the places of each measure."""

    def write(source: str, name: str = "ringvision/mesh.py") -> dict[str, list[str]]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return style_report(tmp_path).places

    return write


def names(places: list[str]) -> list[str]:
    return [place.split()[1] for place in places]


def test_array_functions_need_shapes(write):
    places = write('''
import jax
def bare(x: jax.Array) -> None:
    """Takes an array."""
def given(x: jax.Array) -> None:
    """Takes float32 [B, T]."""
def number(x: jax.Array) -> float:
    """Takes a scalar."""
def words(x: str) -> str:
    """Takes no array."""
def _private(x: jax.Array) -> jax.Array: ...
def outer():
    def inner(x: jax.Array) -> jax.Array: ...
class Network:
    """A network: float32 [B, D] in and out."""
    def __call__(self, x: jax.Array) -> jax.Array: ...
    def loss(self, x: jax.Array) -> jax.Array: ...
class Base:
    def read(self) -> "jax.Array | None":
        """An array [T]."""
class Derived(Base):
    def read(self) -> "jax.Array": ...
''')
    assert names(places[SHAPES]) == ["bare", "Network.loss"]
    assert places[SHAPES][0] == "ringvision/mesh.py:3 bare"


def test_many_parameters_need_args(write):
    places = write('''
def three(a, b, c): ...
def four(a, b, *, c, d): ...
def told(a, b, c, d):
    """Adds.

    Args:
        a: the first.
    """
class Box:
    def three(self, a, b, c): ...
    def rest(self, a, b, *more, **others): ...
    @classmethod
    def made(cls, a, b, c): ...
    @staticmethod
    def plain(a, b, c, d): ...
''')
    assert names(places[ARGS]) == ["four", "Box.rest", "Box.plain"]


def test_long_functions_and_lines_anywhere(write):
    body = "    x = 1\n" * 60
    places = write(
        f"def long():\n{body}\ndef fits():\n{body[10:]}\n# {'-' * 109}\n# {'-' * 108}\n", "scripts/a.py"
    )
    assert names(places["functions over 60 lines"]) == ["long"]
    assert places["lines over 110 columns"] == ["scripts/a.py:124 (111)"]
    assert places[SHAPES] == []


def test_classes_of_one_name(write):
    write("class Row: ...\nclass Other: ...\n", "ringvision/tree.py")
    write("class Row: ...\n", "tests/test_tree.py")
    places = write("class Row: ...\n")
    assert places["classes of one name"] == ["Row: ringvision/mesh.py:1, ringvision/tree.py:1"]


def test_imports_against_the_layers(write):
    write("", "ringvision/tree.py")
    write(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ringvision.ops\n",
        "ringvision/errors.py",
    )
    places = write("import ringvision.tree\n")
    assert places["imports from a layer above or beside"] == [
        "ringvision.mesh imports ringvision.tree: units of one step do not import each other"
    ]
    (exception,) = places["exceptions to the layers"]
    assert exception.startswith("ringvision.errors")


def test_parallel_assignments_but_not_swaps(write):
    places = write("a, b = 1, 2\na, b = b, a\na, b = f()\nc, d = [x[0], y]\n(a, b), c = d, e\na = b = 1, 2\n")
    assert [place.split(":")[1][0] for place in places["parallel assignments"]] == ["1", "4", "5"]


PASSAGE = [
    "total = start + offset",
    "for item in values:",
    "    if item > limit:",
    "        total += item",
    "    else:",
    "        skipped.append(item)",
    "print(total, skipped)",
    "return total",
]


ONE = "def one(values, start, offset, limit, skipped):"
OTHER = "def other(values, start, offset, *, limit, skipped):"


def function(signature: str, lines: list[str]) -> str:
    return "\n".join([signature, *(f"    {line}" for line in lines), ""])


def found(folder: Path, *sources: str) -> list[tuple[str, str, int, bool]]:
    paths = [folder / f"{index}.py" for index in range(len(sources))]
    for path, source in zip(paths, sources):
        path.write_text(source)
    return [
        (pair.first, pair.second, pair.lines, pair.identical) for pair in duplicated_passages(paths, folder)
    ]


def test_a_passage_that_stands_twice(tmp_path):
    commented = [PASSAGE[0], "", "# a comment", *PASSAGE[1:]]
    assert found(tmp_path, function(ONE, PASSAGE), function(OTHER, commented)) == [
        ("0.py:2-9", "1.py:2-11", 8, True)
    ]


def test_a_passage_under_another_name(tmp_path):
    renamed = [line.replace("skipped", "left") for line in PASSAGE]
    assert found(tmp_path, function(ONE, PASSAGE), function(OTHER, renamed)) == [
        ("0.py:2-9", "1.py:2-9", 8, False)
    ]


def test_two_tables_have_only_their_form_in_common(tmp_path):
    tables = ["\n".join(f"{letter}{row} = {letter}{row + 1}" for row in range(9)) for letter in "ab"]
    assert found(tmp_path, *tables) == []


def test_seven_lines_are_not_enough_and_imports_do_not_count(tmp_path):
    assert found(tmp_path, function(ONE, PASSAGE[:-1]), function(OTHER, ["x = 1", *PASSAGE[:-1]])) == []
    imports = "\n".join(f"import a{index}" for index in range(12))
    assert found(tmp_path, imports, imports) == []


def test_a_passage_in_one_file(tmp_path):
    assert found(tmp_path, function(ONE, PASSAGE) + "\nx = 1\n" + function(OTHER, PASSAGE)) == [
        ("0.py:2-9", "0.py:13-20", 8, True)
    ]


def test_figures_and_table(tmp_path):
    (tmp_path / "ringvision").mkdir()
    (tmp_path / "ringvision" / "mesh.py").write_text("# why\ndef f():\n    return 1  # [B]\n\na, b = 1, 2\n")
    report = style_report(tmp_path)
    assert report.figures["parallel assignments per 1,000 statements"] == "333.3"
    assert report.figures["function length in ringvision/, median"] == "2 lines"
    assert report.figures["lines with a comment in ringvision/"] == "50.0 %"
    assert "functions over 60 lines" in report.table()


def test_it_runs_on_a_checkout_and_lists(tmp_path):
    (tmp_path / "ringvision").mkdir()
    (tmp_path / "ringvision" / "mesh.py").write_text("a, b = 1, 2\n")
    command = [sys.executable, ROOT / "scripts" / "style_report.py", "--list", "--root", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "    ringvision/mesh.py:1" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("lines with a comment")
