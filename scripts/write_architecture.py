"""Writes the parts of docs/architecture.md that follow from the source: the layers and the tree of files.

    .venv/bin/python scripts/write_architecture.py           # after a file was added, moved or described anew
    .venv/bin/python scripts/write_architecture.py --check   # exit status 1 where the document is out of date

The layers come from tests/layers.py; what a file is for is the first sentence of its docstring.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from layers import LAYERS  # noqa: E402

DOCUMENT = ROOT / "docs" / "architecture.md"
MARKED = re.compile(
    r"(<!-- written by scripts/write_architecture.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def layer_table() -> str:
    """The layers as a Markdown table, the lowest first."""
    rows = ["| | layer | in it; each step imports only from earlier ones | for |", "|---|---|---|---|"]
    for number, layer in enumerate(LAYERS):
        steps = ", then ".join(", ".join(f"`{name}`" for name in names) for names in layer.steps)
        rows.append(f"| {number} | {layer.name} | {steps} | {layer.purpose} |")
    return "\n".join(rows)


def purpose(path: Path) -> str:
    """The first sentence of a file's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", paragraph)[0].rstrip(".").replace("|", "\\|")


def file_tree() -> str:
    """Every module of the package with its purpose, by layer and unit."""
    package = ROOT / "ringvision"
    lines = []
    for number, layer in enumerate(LAYERS):
        lines.append(f"\n**Layer {number}: {layer.name}**\n")
        for name in (name for names in layer.steps for name in names):
            if (package / f"{name}.py").exists():
                lines.append(f"- `{name}.py`: {purpose(package / f'{name}.py')}")
            else:
                lines += _folder(package / name, "")
    return "\n".join(lines).strip("\n")


def _folder(folder: Path, indent: str) -> list[str]:
    lines = [f"{indent}- `{folder.name}/`: {purpose(folder / '__init__.py')}"]
    indent += "  "
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            lines += _folder(path, indent)
        elif path.suffix == ".py" and path.name != "__init__.py":
            lines.append(f"{indent}- `{path.name}`: {purpose(path)}")
    return lines


def up_to_date(document: str) -> str:
    """The document with its written parts as they follow from the source now."""
    parts = {"layers": layer_table, "files": file_tree}
    return MARKED.sub(lambda match: f"{match[1]}\n{parts[match[2]]()}\n\n{match[3]}", document)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where it is out of date"
    )
    chosen = parser.parse_args()
    document = DOCUMENT.read_text()
    current = up_to_date(document)
    if chosen.check:
        if current != document:
            print(f"{DOCUMENT.name} is out of date: run scripts/write_architecture.py", file=sys.stderr)
        return int(current != document)
    DOCUMENT.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
