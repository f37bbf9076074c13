"""Where a command must not write: into what it reads.

out, inputs  --check_output-->  nothing, or a UserError before anything is opened
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ringvision.errors import UserError

Name = str | os.PathLike[str]


def check_output(out: Name, inputs: Iterable[Name]) -> None:
    """Refuses an output whose writing would change an input.

    Args:
        out: a file or folder that will be written.
        inputs: files and folders that will be read. Names that are neither (patterns, addresses, names of
            shipped things) are passed over.

    Raises:
        UserError: `out` is one of the inputs, by this name or another, or lies inside one.
    """
    target = Path(out).resolve()
    for given in inputs:
        source = Path(given)
        if not source.exists():
            continue
        if target.exists() and os.path.samefile(source, target):
            raise UserError(
                f"{out} is what is read ({given}) and would be lost; give another place for the result"
            )
        if source.is_dir() and source.resolve() in target.parents:
            raise UserError(
                f"{out} lies inside {given}, which is read; give a place outside it for the result"
            )
