"""A training in stages: each says what is other in it, and is checked as a run of its own."""

import dataclasses

import pytest

from ringvision.config import MeshConfig, OptimizerConfig, StageConfig, TrainConfig
from ringvision.data.sources import DataConfig, WorldData
from ringvision.errors import UserError
from ringvision.models.presets import PRESETS

RUN = TrainConfig(
    name="trial",
    out="out",
    model=dataclasses.replace(PRESETS["tiny"], max_length=128),
    data=DataConfig((WorldData("codes"),), 128, 2, text_model="text.model", tokenizer="small"),
    optimizer=OptimizerConfig(warmup_steps=2),
    stages=(
        StageConfig(steps=3, name="short"),
        StageConfig(steps=4, length=512, rope_theta=1e6, mesh=MeshConfig(context=2)),
        StageConfig(steps=5, rows=1, optimizer=OptimizerConfig(lr=1e-4, warmup_steps=1)),
    ),
)


def test_a_stage_is_the_one_before_it_but_for_what_it_says():
    first, second, third = (RUN.of_stage(number) for number in range(3))
    assert (first.steps, first.data, first.model) == (3, RUN.data, RUN.model)
    assert (second.data.length, second.data.rows, second.mesh.context) == (512, 2, 2)
    assert (second.model.rope_theta, second.model.max_length) == (1e6, 512)
    assert (third.data.length, third.data.rows, third.model) == (512, 1, second.model)
    assert (third.optimizer.lr, third.mesh) == (1e-4, second.mesh)
    assert not any(stage.stages for stage in (first, second, third))


def test_steps_are_counted_over_all_stages():
    assert (RUN.num_stages, RUN.total_steps) == (3, 12)
    assert [RUN.first_step(number) for number in range(3)] == [0, 3, 7]
    assert [RUN.stage_at(step) for step in (0, 2, 3, 6, 7, 11, 12)] == [0, 0, 1, 1, 2, 2, 2]
    one = dataclasses.replace(RUN, stages=(), steps=9)
    assert (one.num_stages, one.total_steps, one.stage_at(8), one.of_stage(0)) == (1, 9, 0, one)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 9}, "steps is 9, expected none beside stages"),
        ({"stages": (StageConfig(steps=0),)}, "stages.0.steps is 0, expected at least 1"),
        ({"stages": (StageConfig(steps=4), StageConfig(steps=1))}, "stages.1: optimizer.warmup_steps is 2"),
        ({"stages": (StageConfig(steps=4, length=256),)}, "stages.0: data.length is 256, expected at most"),
        (
            {"stages": (StageConfig(steps=4, accumulate=3),)},
            "data.rows is 2, expected a multiple of accumulate",
        ),
        ({"stages": (StageConfig(steps=4, rope_theta=0.0),)}, "stages.0.rope_theta is 0.0"),
    ],
)
def test_what_is_wrong_with_a_stage_is_said_under_its_number(changes, says):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(RUN, **changes)
    assert says in str(caught.value)
