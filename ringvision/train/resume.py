"""What a run that goes on is told otherwise than when it began.

    run.json of the run, the config now  --differences-->  ["optimizer.lr: 0.001 -> 0.002", ...]
                                         --check_resume-->  the harmless ones, or a UserError

A run that goes on promises the weights of one that was never stopped. What only says how it is computed,
watched or kept may change; what changes the weights that come out is refused unless it is asked for.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringvision.config import TrainConfig
from ringvision.errors import UserError

RUN_FILE = "run.json"
MODEL_FILE = "model.json"
"""The run's config, and what the config.json of its model says (train/export.py)."""
NOTHING = "nothing"
HARMLESS = (
    "name",
    "out",
    "mesh.",
    "checkpoints.",
    "evaluation.",
    "data.workers",
    "data.bad_records",
    "health.rollbacks",
    "loss_chunk",
    "log_every",
    "peak_flops",
    "wandb",
    "model.remat",
    "model.feed_forward_chunk",
)
"""Settings that do not change what is learned, or by rounding alone. One that ends in a dot stands for all
behind it.
"""
_STAGE_HARMLESS = ("mesh", "name")


def read_settings(folder: Path, name: str = RUN_FILE) -> dict[str, Any] | None:
    """The config that a run was begun with, as `TrainConfig.to_dict` gives it, or another of its files of
    settings; None where the folder holds no such file. UserError where it cannot be read.
    """
    path = folder / name
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); put it back, or remove it and the run goes on unchecked"
        ) from None
    return settings if isinstance(settings, dict) else None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Dotted name -> "old -> new" for every setting that differs between two configs, as
    `TrainConfig.to_dict` gives them. What one of them lacks is "nothing".
    """
    old, new = (_named(json.loads(json.dumps(settings))) for settings in (before, after))
    found = {}
    for name in [*old, *(name for name in new if name not in old)]:
        values = old.get(name, NOTHING), new.get(name, NOTHING)
        if values[0] != values[1]:
            found[name] = f"{values[0]} -> {values[1]}"
    return found


def check_resume(folder: Path, config: TrainConfig, *, allow_changes: bool = False) -> list[str]:
    """What is other in the config than in the run that is gone on with.

    Args:
        folder: of the run.
        config: what it is told now.
        allow_changes: whether what changes the weights is let pass too.

    Returns:
        A line for every setting that changed.

    Raises:
        UserError: for one that changes what the run would have learned.
    """
    before = read_settings(folder)
    if before is None:
        return []
    changed = differences(_completed(before), config.to_dict())
    grave = [f"{name}: {change}" for name, change in changed.items() if not _harmless(name)]
    if grave and not allow_changes:
        raise UserError(
            f"{folder} was begun with another config ({'; '.join(grave)}); go on with the old one, begin "
            "another run with another --out, or say --allow-changes to go on all the same"
        )
    return [f"{name}: {change}" for name, change in changed.items()]


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what a version that did not know it yet left at its default; as they are where they
    are no config of this version.
    """
    try:
        return TrainConfig.from_dict(settings).to_dict()
    except UserError:
        return settings


def _harmless(name: str) -> bool:
    parts = name.split(".")
    if parts[0] == "stages" and len(parts) > 2:
        return parts[2] in _STAGE_HARMLESS
    return any(name.startswith(known) if known.endswith(".") else name == known for known in HARMLESS)


def _named(settings: Any, name: str = "") -> dict[str, Any]:
    """Dotted name -> value of nested settings; lists are looked into as well."""
    if isinstance(settings, list):
        settings = {str(number): value for number, value in enumerate(settings)}
    if not isinstance(settings, Mapping) or not settings:
        return {name: settings}
    found = dict[str, Any]()
    for key, value in settings.items():
        found |= _named(value, f"{name}.{key}" if name else key)
    return found


def fingerprint(config: TrainConfig) -> str:
    """A hash of all settings, by which processes know that they run the same."""
    settings = json.dumps(config.to_dict(), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]
