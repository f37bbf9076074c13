"""Counts how the code is written, and names where it is not as CONTRIBUTING.md wants it.

    .venv/bin/python scripts/style_report.py            # a table of counts
    .venv/bin/python scripts/style_report.py --list     # and every place, as file:line

.ci/run prints the table as information; it fails nothing. What must hold is held by ruff, mypy and
tests/test_layers.py.
"""

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from duplicated_passages import duplicated_passages

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from layers import forbidden_imports, import_cycle, import_graphs  # noqa: E402

MAX_FUNCTION_LINES = 60
MAX_COLUMNS = 110
MIN_PARAMETERS_WITH_ARGS = 4
ARRAY = re.compile(r"\b(Array|ndarray|NDArray|ArrayLike)\b")
# [B, T, N, H], [n <= 16, 64], [], [..., D]: names, numbers and dots between brackets; or "scalar"
SHAPE = re.compile(r"\[(\.\.\.|[A-Za-z0-9_<>=+*/ ,.…·×{}()-]*)\]|\bscalar\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Report:
    """What was found: counts by the name of a measure, and the places of those that are to be none."""

    places: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        rows = {name: str(len(places)) for name, places in self.places.items()} | self.figures
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


@dataclass(frozen=True)
class Source:
    """A Python file, read once."""

    name: str  # its path from the root, with slashes
    text: str
    tree: ast.Module

    @property
    def of_package(self) -> bool:
        return self.name.startswith("ringvision/")


def read_sources(root: Path) -> list[Source]:
    """Every Python file under `root`, but for those in hidden folders (environments, caches)."""
    sources = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not any(part.startswith(".") for part in relative.parts):
            text = path.read_text()
            sources.append(Source(relative.as_posix(), text, ast.parse(text)))
    return sources


def functions(source: Source) -> Iterator[Function]:
    """Every function of a file, methods and inner functions included."""
    return (node for node in ast.walk(source.tree) if isinstance(node, Function))


def public_functions(source: Source) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    """The functions that others may call, and the class that each is a method of. Names that begin with _ are
    private, but for __init__ and __call__; what is defined inside a function is too.
    """

    def inside(
        body: list[ast.stmt], owner: ast.ClassDef | None
    ) -> Iterator[tuple[Function, ast.ClassDef | None]]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from inside(node.body, node)
            elif isinstance(node, Function) and (
                not node.name.startswith("_") or node.name in ("__init__", "__call__")
            ):
                yield node, owner

    return inside(source.tree.body, None)


def parameters(function: Function, owner: ast.ClassDef | None) -> list[ast.arg]:
    """The parameters that a caller gives: without self and cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    if owner is not None and not static:
        named = named[1:]
    rest = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [*named, *arguments.kwonlyargs, *rest]


class Docstrings:
    """Docstrings as a reader finds them: what a class says of itself belongs to its __init__ and __call__;
    a method without one has that of the method it overrides.
    """

    def __init__(self, sources: list[Source]) -> None:
        nodes = (node for source in sources for node in ast.walk(source.tree))
        self.classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def of(self, function: Function, owner: ast.ClassDef | None) -> str:
        found = ast.get_docstring(function) or ""
        if owner is None:
            return found
        if function.name in ("__init__", "__call__"):
            found += "\n" + (ast.get_docstring(owner) or "")
        return found if found.strip() else self._inherited(function.name, owner)

    def _inherited(self, method: str, owner: ast.ClassDef) -> str:
        for base in owner.bases:
            parent = self.classes.get(ast.unparse(base).split("[")[0].split(".")[-1])
            if parent is None or parent is owner:
                continue
            for node in parent.body:
                if isinstance(node, Function) and node.name == method:
                    return self.of(node, parent)
            if found := self._inherited(method, parent):
                return found
        return ""


def docstring_measures(sources: list[Source]) -> dict[str, list[str]]:
    """Public functions of ringvision/ with arrays but no shape, and with many parameters but no `Args:`."""
    no_shapes = []
    no_args = []
    docstrings = Docstrings([source for source in sources if source.of_package])
    for source in sources:
        if not source.of_package:
            continue
        for function, owner in public_functions(source):
            name = function.name if owner is None else f"{owner.name}.{function.name}"
            place = f"{source.name}:{function.lineno} {name}"
            docstring = docstrings.of(function, owner)
            given = parameters(function, owner)
            annotations = [one.annotation for one in given] + [function.returns]
            if any(ARRAY.search(ast.unparse(one)) for one in annotations if one) and not SHAPE.search(
                docstring
            ):
                no_shapes.append(place)
            if len(given) >= MIN_PARAMETERS_WITH_ARGS and not re.search(
                r"^\s*Args:\s*$", docstring, re.MULTILINE
            ):
                no_args.append(place)
    return {
        "public array functions without shapes": no_shapes,
        f"public functions of {MIN_PARAMETERS_WITH_ARGS} and more parameters without Args": no_args,
    }


def length_measures(sources: list[Source]) -> dict[str, list[str]]:
    """Functions and lines that are too long, anywhere."""
    long_functions = []
    long_lines = []
    for source in sources:
        for function in functions(source):
            if (lines := _lines(function)) > MAX_FUNCTION_LINES:
                long_functions.append(f"{source.name}:{function.lineno} {function.name} ({lines})")
        for number, line in enumerate(source.text.splitlines(), 1):
            if len(line) > MAX_COLUMNS:
                long_lines.append(f"{source.name}:{number} ({len(line)})")
    return {
        f"functions over {MAX_FUNCTION_LINES} lines": long_functions,
        f"lines over {MAX_COLUMNS} columns": long_lines,
    }


def _lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def classes_of_one_name(sources: list[Source]) -> list[str]:
    """Classes of ringvision/ whose name another class has too."""
    homes = defaultdict(list)
    for source in sources:
        if source.of_package:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.ClassDef):
                    homes[node.name].append(f"{source.name}:{node.lineno}")
    return [f"{name}: {', '.join(places)}" for name, places in sorted(homes.items()) if len(places) > 1]


def layer_measures(root: Path) -> dict[str, list[str]]:
    """Imports that tests/layers.py forbids, and those that only the type checker is allowed."""
    running, for_types = import_graphs(root)
    cycle = import_cycle(running)
    return {
        "imports from a layer above or beside": forbidden_imports(running)
        + ([" -> ".join(cycle)] if cycle else []),
        "exceptions to the layers": forbidden_imports(for_types),
    }


def parallel_assignments(sources: list[Source]) -> list[str]:
    """Statements such as `a, b = 1, 2`, but not those in which a value is read that they change (a swap)."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple | ast.List):
                continue
            for target in node.targets:
                if not isinstance(target, ast.Tuple | ast.List):
                    continue
                changed = {ast.unparse(one) for one in target.elts}
                read = {
                    ast.unparse(one)
                    for one in ast.walk(node.value)
                    if isinstance(one, ast.Name | ast.Attribute | ast.Subscript)
                }
                if not changed & read:
                    found.append(f"{source.name}:{node.lineno} {ast.unparse(node)}")
    return found


def comment_share(sources: list[Source]) -> float:
    """The share of lines that are not blank that hold a comment, alone or behind code."""
    comments = 0
    lines = 0
    for source in sources:
        lines += sum(1 for line in source.text.splitlines() if line.strip())
        tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
        comments += sum(1 for token in tokens if token.type == tokenize.COMMENT)
    return comments / max(lines, 1)


def style_report(root: Path) -> Report:
    """Measures every Python file under `root`, which holds ringvision/ and what stands beside it."""
    sources = read_sources(root)
    package = [source for source in sources if source.of_package]
    report = Report()
    report.places.update(docstring_measures(sources))
    report.places.update(length_measures(sources))
    report.places["classes of one name"] = classes_of_one_name(sources)
    report.places.update(layer_measures(root))
    pairs = duplicated_passages([root / source.name for source in sources], root)
    report.places["pairs of duplicated passages of 8 and more lines"] = [
        f"{pair.first} ~ {pair.second} ({pair.lines} lines{', identical' if pair.identical else ''})"
        for pair in pairs
    ]
    parallel = parallel_assignments(sources)
    report.places["parallel assignments"] = parallel
    statements = sum(isinstance(node, ast.stmt) for source in sources for node in ast.walk(source.tree))
    report.figures["parallel assignments per 1,000 statements"] = (
        f"{1000 * len(parallel) / max(statements, 1):.1f}"
    )
    lengths = sorted(_lines(function) for source in package for function in functions(source)) or [0]
    report.figures["function length in ringvision/, median"] = f"{statistics.median(lengths):g} lines"
    ninth = lengths[min(len(lengths) - 1, int(0.9 * len(lengths)))]
    report.figures["function length in ringvision/, 90th percentile"] = f"{ninth} lines"
    report.figures["lines with a comment in ringvision/"] = f"{100 * comment_share(package):.1f} %"
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--list", action="store_true", help="name every place, as file:line")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure (this one)")
    chosen = parser.parse_args()
    report = style_report(chosen.root)
    if chosen.list:
        for name, places in report.places.items():
            print(f"{name}: {len(places)}", *(f"    {place}" for place in places), sep="\n")
        print()
    print(report.table())


if __name__ == "__main__":
    main()
