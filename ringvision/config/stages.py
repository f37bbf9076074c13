"""StageConfig: what is other in one stage of a training than in the run as a whole.

TrainConfig with stages  --TrainConfig.of_stage(1)-->  the TrainConfig of its second stage, without stages
"""

import dataclasses

from ringvision.checks import Checks
from ringvision.config.parts import MeshConfig, OptimizerConfig
from ringvision.data.sources import SourceConfig
from ringvision.ops.rope import RopeScaling


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """A stage begins with the parameters of the stage before it and with a new optimizer. What is None is as
    in the stage before; in the first stage as the run says.

    steps: how many. name: for messages.
    length, rows, accumulate: a batch is `rows` rows of `length` tokens, read in `accumulate` parts.
    rope_theta, rope_scaling: of the rotary positions; a stage that says them may be longer than the model.
    sources: the mixture that is read.
    mesh, optimizer: as a whole, each.
    """

    steps: int
    name: str = ""
    length: int | None = None
    rows: int | None = None
    accumulate: int | None = None
    rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    sources: tuple[SourceConfig, ...] | None = None
    mesh: MeshConfig | None = None
    optimizer: OptimizerConfig | None = None

    def problems(self) -> list[str]:
        """All that is wrong with these settings by themselves, a sentence each."""
        checks = Checks(self)
        checks.at_least(1, "steps", "length", "rows", "accumulate")
        checks.positive("rope_theta")
        return checks.problems
