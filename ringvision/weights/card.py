"""MODEL_CARD.md of imported weights: where they come from, whose they are, what was assumed, how to use them.

In: the "source" of the new config.json, and a few numbers. Out: text.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

VERSIONS = ("ringvision", "jax", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """The versions of this package and of what wrote the weights with it."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found


def model_card(name: str, source: Mapping[str, Any], parameters: int, dtypes: Sequence[str]) -> str:
    """The card's text.

    Args:
        name: of the model.
        source: the "source" of its config.json.
        parameters: how many there are.
        dtypes: of the tensors, each once.

    Returns:
        the text, Markdown.
    """
    licence = (
        source.get("license") or "not stated where the weights came from; find out before you pass them on"
    )
    files = [f"- `{file}`: SHA-256 `{digest}`" for file, digest in source["files"].items()]
    assumed = [f"- {line}" for line in source["assumed"]] or ["Nothing: the source says it all."]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Imported by ringvision from `{source['name']}`: {source['family']}, {parameters:,} "
            f"parameters in {' and '.join(dtypes)}.",
            "The weights are their authors' work; nothing but names and layout was changed here.",
            "",
            f"Licence: {licence}.",
            "",
            "## Source",
            "",
            *files,
            "",
            "## Assumed",
            "",
            *assumed,
            "",
            "## Made with",
            "",
            ", ".join(f"{package} {number}" for package, number in source["versions"].items()),
            "",
        ]
    )
