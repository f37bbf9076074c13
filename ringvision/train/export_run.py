"""The model of a run that is under way, was stopped or is done, out of its newest good checkpoint.

RUN/{run.json, model.json, checkpoints/}  --export_run-->  a model folder
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax

from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.outputs import check_output
from ringvision.train.export import export
from ringvision.train.initial_state import saved_state
from ringvision.train.part import Part
from ringvision.train.resume import MODEL_FILE, RUN_FILE, read_settings
from ringvision.vocabulary import Vocabulary


def is_run(folder: Path) -> bool:
    """Whether a training run of the transformer lies there."""
    return (folder / RUN_FILE).is_file() and (folder / "checkpoints").is_dir()


def export_run(folder: Path, dest: Path) -> dict[str, Any]:
    """Write the model of a run.

    Args:
        folder: of the run, which need not be at rest.
        dest: the model folder.

    Returns:
        {"dest", "step", "skipped": a sentence for each damaged checkpoint}.

    Raises:
        UserError: there is no run, or no checkpoint of it that is whole; `dest` is the run's or lies in it.
    """
    check_output(dest, [folder])
    told = read_settings(folder)
    model = read_settings(folder, MODEL_FILE)
    if told is None or model is None:
        raise UserError(
            f"{folder} holds no run: {RUN_FILE} or {MODEL_FILE} is not there; give the --out of a training"
        )
    run = TrainConfig.from_dict(told)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        if checkpoints.latest() is None:
            raise UserError(f"{folder} has no checkpoint yet; wait for its first one")
        offset = Vocabulary.from_dict(model["vocabulary"]).code_offset if "vocabulary" in model else 0
        mesh = make_mesh(context=1, devices=jax.devices()[:1])
        found = checkpoints.restore(partial(saved_state, run, mesh=mesh, code_offset=offset))
    config = run.of_stage(run.stage_at(max(found.step - 1, 0)))
    export(dest, {**model, "transformer": config.transformer.to_dict()}, Part(config, offset), found.tree)
    return {"dest": str(dest), "step": found.step, "skipped": found.skipped}
