"""The documents name files that exist: every path in them, and every link between them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# a path of the repository, or of ringvision/, in backticks or in a command: two parts at least, or a file
TOP = (
    "ringvision|tests|scripts|configs|docs|demos|tokenizers|data|infer|models|ops|train|weights|evaluate|cli"
)
PATH = re.compile(rf"(?<![\w/.~*-])((?:{TOP})/[\w./-]*\w)(?![\w*/]|-N)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def missing_paths(text: str) -> set[str]:
    found = {match[1].removesuffix(".") for match in PATH.finditer(text)}
    return {path for path in found if not any((base / path).exists() for base in (ROOT, ROOT / "ringvision"))}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document):
    assert not missing_paths(document.read_text())


def test_a_path_that_is_not_there_is_found():
    assert missing_paths("`ops/ring.py`, `scripts/none.py` and `tests/ops/test_gone.py`.") == {
        "scripts/none.py",
        "tests/ops/test_gone.py",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in LINK.findall(document.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = document if not name else (document.parent / name)
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target
