"""A run's scalars for Weights & Biases, where the config names a project there.

The package `wandb` is an extra, imported only when a project is named. Whatever it raises becomes one
warning, after which nothing more is sent: a run does not end because a service does not answer. Its own
environment variables (WANDB_MODE=offline, WANDB_API_KEY) work as it documents them.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.untrusted_files import read_object

FINISHED_WITHIN = 300.0
"""Seconds that a run's end waits for what is still to be sent; wandb by itself waits without end."""
IDENTITY = "wandb.json"


class WandbRun:
    """One run of a project; a process that goes on with the run goes on with it there too."""

    def __init__(
        self,
        project: str,
        directory: Path,
        *,
        step: int,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        """Begin the run, or go on with it.

        Args:
            project: its name at W&B.
            directory: of the run; the identity of the run at W&B is kept there, and wandb's own files.
            step: the run goes on from there; 0: it is a new one.
            config: its settings as JSON holds them, shown there; `name` among them is what it is called.
            warn: is told in one line what does not work.
        """
        self._warn = warn
        self._run: Any = None
        self._newest = -1
        try:
            self._run = self._begin(project, directory, step, dict(config))
        except ImportError:
            warn("wandb is not installed, so nothing is sent to W&B: pip install 'ringvision[wandb]'")
        except Exception as error:
            self._give_up(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the scalars of a step. W&B takes no steps in reverse: after the run has gone back, those that
        it already has are left as they are.
        """
        if self._run is None or step < self._newest:
            return
        try:
            self._run.log(dict(values), step=step)
            self._newest = step
        except Exception as error:
            self._give_up(error)

    def rolled_back(self, step: int) -> None:
        """See `write`."""

    def close(self, *, failed: bool = False) -> None:
        """Wait until all is sent, for FINISHED_WITHIN at most."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._give_up(error)
        self._run = None

    def _begin(self, project: str, directory: Path, step: int, config: dict[str, Any]) -> Any:
        import wandb

        run = wandb.init(
            project=project,
            id=_identity(directory / IDENTITY, anew=step == 0),
            resume="allow",
            name=config.get("name"),
            dir=str(directory),
            config=config,
            settings=wandb.Settings(
                console="off", login_timeout=60, finish_timeout=FINISHED_WITHIN, finish_timeout_raises=True
            ),
        )
        if run.resumed:
            self._newest = run.step
        return run

    def _give_up(self, error: Exception) -> None:
        self._run = None
        said = " ".join(str(error).split())[:200]
        self._warn(f"W&B does not work and is left out from here on ({type(error).__name__}: {said})")


def _identity(path: Path, *, anew: bool) -> str:
    """The identity of the run in the file, which is written where there is none yet."""
    try:
        found = "" if anew else read_object(path, "")["id"]
    except (UserError, KeyError):
        found = ""
    if not re.fullmatch(r"[0-9a-f]{16}", str(found)):
        found = secrets.token_hex(8)
        path.write_text(json.dumps({"id": found}) + "\n", encoding="utf-8")
    return found
