"""The layers of ringvision/: which module may import which. The table stands here and nowhere else.

tests/test_layers.py holds the imports of every module against it, docs/architecture.md shows it (written by
scripts/write_architecture.py), scripts/style_report.py counts what breaks it.

There is one rule: a module imports from its own unit (a file or a folder directly under ringvision/) and from
units of earlier steps. Units of one step do not import each other, and no module imports itself by a detour.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Layer:
    """A layer: its name, what it is for, and its units in steps, each of which imports only earlier ones."""

    name: str
    purpose: str
    steps: tuple[tuple[str, ...], ...]


LAYERS = (
    Layer(
        "foundations",
        "errors, files and ids, the device mesh, attention; third-party imports: jax and numpy alone",
        (
            ("errors",),
            ("checks", "fields", "shipped", "outputs", "untrusted_files", "mesh", "tree", "distributed"),
            ("vocabulary", "ops"),
        ),
    ),
    Layer(
        "networks and data",
        "the transformer and the video tokenizers' networks; videos, text, token streams and batches",
        (("models", "data"),),
    ),
    Layer(
        "folders",
        "configs, model folders, checkpoints, and other projects' weights",
        (
            ("options", "model_folder"),
            ("config", "checkpoint", "video_tokenizer"),
            ("weights",),
        ),
    ),
    Layer(
        "engines",
        "a library of videos to tokens, training, inference; they do not import each other",
        (("tokenize", "train", "infer"),),
    ),
    Layer(
        "applications",
        "what is built on the engines: evaluation",
        (("evaluate",),),
    ),
    Layer(
        "interfaces",
        "`import ringvision`, and the command line",
        (("__init__",), ("cli",), ("__main__",)),
    ),
)
FOUNDATIONS_IMPORT = {"jax", "numpy"}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package under `root`: its dotted name and its file. The package itself is
    "ringvision.__init__".
    """
    names = {}
    for path in sorted((root / "ringvision").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return names


def imports(name: str, path: Path, known: set[str]) -> tuple[set[str], set[str]]:
    """The modules of the package that a file imports, inside functions as well: (when it runs, only for the
    type checker).
    """
    tree = ast.parse(path.read_text())
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for_types.update(inner for statement in node.body for inner in ast.walk(statement))
    running: set[str] = set()
    typing: set[str] = set()
    for node in ast.walk(tree):
        found = set()
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name, so that it can be read"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.add(whole if whole in known else module)
        found = {"ringvision.__init__" if module == "ringvision" else module for module in found}
        found = {module for module in found if module.split(".")[0] == "ringvision" and module != name}
        (typing if node in for_types else running).update(found)
    return running, typing


def import_graphs(root: Path = ROOT) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Module -> the modules that it imports: (when it runs, only for the type checker)."""
    names = modules(root)
    found = {name: imports(name, path, set(names)) for name, path in names.items()}
    return {name: running for name, (running, _) in found.items()}, {
        name: types for name, (_, types) in found.items()
    }


def unit(module: str) -> str:
    """The file or folder directly under ringvision/ that a module belongs to."""
    return module.split(".")[1]


def step(module: str) -> tuple[int, int]:
    """(layer, step within the layer) of a module; lower ones are imported by higher ones."""
    for layer, described in enumerate(LAYERS):
        for index, units in enumerate(described.steps):
            if unit(module) in units:
                return layer, index
    raise AssertionError(
        f"{module} has no layer: give {unit(module)!r} one in LAYERS of tests/{Path(__file__).name}"
    )


def forbidden_imports(graph: dict[str, set[str]]) -> list[str]:
    """One line for every import that the rule forbids."""
    wrong = []
    for module, targets in graph.items():
        for target in sorted(targets):
            if unit(module) == unit(target) or step(target) < step(module):
                continue
            if step(target) == step(module):
                wrong.append(f"{module} imports {target}: units of one step do not import each other")
            else:
                wrong.append(
                    f"{module} (layer {step(module)[0]}) imports {target} (layer {step(target)[0]}): upward"
                )
    return wrong


def import_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The first cycle of imports, as the modules along it; [] where there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := walk(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])
