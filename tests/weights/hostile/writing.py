"""How a hostile file comes into a folder."""

from collections.abc import Callable
from pathlib import Path


def writer(file: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / file).write_bytes(content(folder))
        return folder / file

    return write
