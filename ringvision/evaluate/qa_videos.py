"""The files of the videos that questions name: a folder in, the file of each name out, and names without one.

Names come from question files, which anybody may have written: they are only looked up among the files that
the folder holds, never made into a path.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ringvision.errors import UserError
from ringvision.tokenize.inputs import SUFFIXES

FORMS = ("{}", "v_{}", "video{}", "vid{}")
"""How benchmarks name files: ActivityNet v_NAME.mp4, MSR-VTT video7010.mp4, MSVD vid1451.avi."""
MAPPING = "youtube_mapping.txt"
MOST_BYTES = 4 << 20


def find_videos(
    folder: str | os.PathLike[str], names: Iterable[str], beside: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Path], list[str]]:
    """The files of videos.

    Args:
        folder: that holds them, in folders inside it as well; links to folders are not entered.
        names: of the videos, without a folder; with or without an ending.
        beside: the file of the questions; MSVD's youtube_mapping.txt is looked for there and in `folder`.

    Returns:
        The file of each name that has one, and the other names, each once and in their order.

    Raises:
        UserError: there is no such folder, or none of the files is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the videos")
    held: dict[str, Path] = {}
    for where, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(where, file)
            if path.suffix.lower() in SUFFIXES:
                held.setdefault(path.stem, path)
                held.setdefault(file, path)
    clips = _mapping([folder / MAPPING, *([Path(beside).parent / MAPPING] if beside else [])])
    found: dict[str, Path] = {}
    missing: list[str] = []
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        forms = [form.format(name) for form in FORMS]
        forms += [clips[form] for form in forms if form in clips]
        at = next((held[form] for form in forms if form in held), None)
        if at is None:
            missing.append(name)
        else:
            found[name] = at
    if wanted and not found:
        raise UserError(
            f"{folder} has none of the {len(wanted)} videos, such as {wanted[0][:80]!r}; give the folder "
            "that holds them, under the names of the benchmark"
        )
    return found, missing


def _mapping(paths: Iterable[Path]) -> Mapping[str, str]:
    """MSVD's numbers -> the names of its clips, lines "-4wsuPCjDBc_5_15 vid1"; {} where there is no such
    file.
    """
    for path in paths:
        try:
            if not path.is_file() or path.stat().st_size > MOST_BYTES:
                continue
            text = path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None
        return {number: clip for clip, number in re.findall(r"^(\S+)\s+(vid\d+)\s*$", text, re.MULTILINE)}
    return {}
