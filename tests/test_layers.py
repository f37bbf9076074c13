"""The layers of ringvision/ (tests/layers.py) hold, read from the source itself; and `import ringvision` and
its command line bring in neither jax nor numpy.
"""

import ast
import subprocess
import sys

import pytest
from layers import (
    FOUNDATIONS_IMPORT,
    LAYERS,
    ROOT,
    forbidden_imports,
    import_cycle,
    import_graphs,
    modules,
    unit,
)
from write_architecture import DOCUMENT, up_to_date


@pytest.fixture(scope="module")
def graphs() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    assert len(modules()) > 5
    return import_graphs()


@pytest.mark.parametrize("for_types", [False, True])
def test_no_module_imports_from_above_or_beside(graphs, for_types):
    found = forbidden_imports(graphs[for_types])
    assert not found, "\n".join(found)


def test_nothing_is_imported_in_a_cycle(graphs):
    found = import_cycle(graphs[False])
    assert not found, " -> ".join(found)


def test_every_unit_stands_once_in_the_table_and_exists():
    listed = [name for layer in LAYERS for names in layer.steps for name in names]
    assert sorted(listed) == sorted({unit(module) for module in modules()})


@pytest.mark.parametrize(
    ("module", "target", "word"),
    [
        ("ringvision.ops.ring", "ringvision.models.transformer", "upward"),
        ("ringvision.mesh", "ringvision.ops.ring", "upward"),
        ("ringvision.mesh", "ringvision.tree", "one step"),
        ("ringvision.data.stream", "ringvision.models.vqgan", "one step"),
        ("ringvision.checkpoint", "ringvision.weights.table", "upward"),
        ("ringvision.train.state", "ringvision.infer.model", "one step"),
        ("ringvision.infer.assistant", "ringvision.__init__", "upward"),
        ("ringvision.checkpoint", "ringvision.cli", "upward"),
    ],
)
def test_what_is_forbidden_is_found(module, target, word):
    (line,) = forbidden_imports({module: {target}})
    assert word in line


def test_a_cycle_is_found():
    assert import_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert import_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_imports_are_read_from_the_source(tmp_path):
    package = tmp_path / "ringvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mesh.py").write_text("")
    (package / "tree.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from ringvision.mesh import Mesh\n"
        "def late():\n    import ringvision\n"
    )
    running, for_types = import_graphs(tmp_path)
    assert running["ringvision.tree"] == {"ringvision.__init__"}
    assert for_types["ringvision.tree"] == {"ringvision.mesh"}


def test_the_foundations_import_jax_and_numpy_alone():
    foundations = {name for names in LAYERS[0].steps for name in names}
    for name, path in modules().items():
        if unit(name) not in foundations:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            packages = {module.split(".")[0] for module in found} - sys.stdlib_module_names - {"ringvision"}
            assert packages <= FOUNDATIONS_IMPORT, f"{name} imports {packages - FOUNDATIONS_IMPORT}"


def test_no_file_is_long():
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 500}, "too long to be one idea"


def test_the_command_line_brings_in_no_jax():
    code = (
        "import sys, ringvision, ringvision.cli\n"
        "for words in (['ask', 'a.mp4', 'why?'], ['doctor'], ['train', 'demo'], ['evaluate', 'world']):\n"
        "    ringvision.cli.read(words)\n"
        "print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1].split() == ["False", "False"]


def test_there_is_no_package_called_tokenizers():
    """An __init__.py there would hide Hugging Face's package of that name from anything run in a checkout."""
    assert not (ROOT / "tokenizers" / "__init__.py").exists()


def test_the_architecture_document_is_up_to_date():
    assert up_to_date(DOCUMENT.read_text()) == DOCUMENT.read_text(), "run scripts/write_architecture.py"
