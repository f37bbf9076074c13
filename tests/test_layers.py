"""The house of ringvision/: who may import whom, read from the source itself.

A file imports from layers below its own. On its own layer it may import what its layer allows: siblings of
its own wing or engine, never another wing or engine; nothing in a circle. `import ringvision` and its command
line bring in no jax.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ringvision"

# layer -> what stands on it; a folder is one thing. Things of one layer do not import each other, unless the
# layer is in MINGLING.
LAYERS: list[set[str]] = [
    {"checks", "errors", "fields", "shipped", "untrusted_files", "vocabulary", "mesh", "ops", "tree"},
    {"models", "data"},
    {"video_tokenizer", "checkpoint", "model_folder", "weights", "options", "config"},
    {"tokenize", "train", "infer"},
    {"evaluate", "plan", "serve"},
    {"cli", "__init__", "__main__"},
]
MINGLING = {0, 2, 5}
GROUND_IMPORTS = {"jax", "numpy"}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return names


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules of the package that this file imports, inside functions as well; not what is only for the
    type checker.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name, so that it can be read"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.add(whole if whole in known else module)
    found = {"ringvision.__init__" if module == "ringvision" else module for module in found}
    return {module for module in found if module.split(".")[0] == "ringvision" and module != name}


def thing(module: str) -> str:
    return module.split(".")[1]


def layer(module: str) -> int:
    homes = [level for level, things in enumerate(LAYERS) if thing(module) in things]
    assert homes, f"{module} has no layer: give it one in {Path(__file__).name} and in the README"
    return homes[0]


def complaints(graph: dict[str, set[str]]) -> list[str]:
    wrong = []
    for module, targets in graph.items():
        for target in sorted(targets):
            above = layer(module)
            below = layer(target)
            if target == "ringvision.__init__" and module != "ringvision.__main__" and thing(module) != "cli":
                wrong.append(f"{module} imports the public face, which stands above it")
            elif below > above:
                wrong.append(f"{module} (layer {above}) imports {target} (layer {below}): upward")
            elif below == above and thing(module) != thing(target) and above not in MINGLING:
                wrong.append(f"{module} imports {target}: neighbours on layer {above} do not know each other")
    return wrong


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The first circle of imports found, as the modules along it; [] where there is none."""
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


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    names = modules()
    assert len(names) > 5
    return {name: imports(name, path, set(names)) for name, path in names.items()}


def test_nothing_is_imported_upward(graph):
    assert not complaints(graph), "\n".join(complaints(graph))


def test_nothing_is_imported_in_a_circle(graph):
    assert not circle(graph), " -> ".join(circle(graph))


@pytest.mark.parametrize(
    ("module", "target", "word"),
    [
        ("ringvision.ops.ring", "ringvision.models.transformer", "upward"),
        ("ringvision.data.stream", "ringvision.models.vqgan", "neighbours"),
        ("ringvision.train.state", "ringvision.infer.generate", "neighbours"),
        ("ringvision.infer.assistant", "ringvision.__init__", "public face"),
        ("ringvision.checkpoint", "ringvision.cli", "upward"),
    ],
)
def test_what_is_forbidden_is_found(module, target, word):
    (complaint,) = complaints({module: {target}})
    assert word in complaint


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_the_ground_imports_jax_and_numpy_alone():
    for name, path in modules().items():
        if thing(name) not in LAYERS[0]:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in (
                {module.split(".")[0] for module in found} - sys.stdlib_module_names - {"ringvision"}
            ):
                assert module in GROUND_IMPORTS, f"{name} imports {module}"


def test_no_file_is_long():
    for name, path in modules().items():
        assert len(path.read_text().splitlines()) < 500, f"{name} is too long to be one idea"


def test_importing_the_package_brings_in_no_jax():
    code = (
        "import sys, ringvision, ringvision.cli; ringvision.cli.read(['ask', 'a.mp4', 'why?']); "
        "print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_there_is_no_package_called_tokenizers():
    """An __init__.py there would hide Hugging Face's package of that name from anything run in a checkout."""
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
