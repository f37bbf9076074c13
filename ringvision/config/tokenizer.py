"""TokenizerTrainConfig: all that a run that trains a video tokenizer is told."""

import dataclasses

from ringvision.checks import Checks
from ringvision.config.parts import CheckpointConfig, problems_of, refuse
from ringvision.models.vqgan import VQGANConfig


@dataclasses.dataclass(frozen=True)
class TokenizerOptimizerConfig:
    """Adam for a video tokenizer: the rate warms up to `lr` over `warmup_steps` and falls along a cosine."""

    lr: float = 1e-3
    warmup_steps: int = 200

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.positive("lr")
        checks.at_least(0, "warmup_steps")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class TokenizerLossConfig:
    """What counts in the loss of a video tokenizer beside L1 + L2 of its pixels (train/tokenizer_step.py).

    codebook_weight: how much latents are pulled to their rows of the codebook.
    edge_weight: how much more a pixel at an edge counts.
    adversarial_start: the step at which the adversarial loss begins; None: never.
    adversarial_weight: how much it counts.
    """

    codebook_weight: float = 1.0
    edge_weight: float = 0.0
    adversarial_start: int | None = None
    adversarial_weight: float = 0.1

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(0, "codebook_weight", "edge_weight", "adversarial_weight", "adversarial_start")
        return checks.problems


@dataclasses.dataclass(frozen=True)
class TokenizerTrainConfig:
    """A run that trains a video tokenizer (a VQGAN) on single frames.

    name: what the tokenizer is called. out: the folder of the run.
    data: an .npy of frames, uint8 [T, H, W, 3]. batch: frames of a step.
    log_every, eval_every: after how many steps; eval_every 0: never.
    """

    name: str
    out: str
    vqgan: VQGANConfig
    data: str
    steps: int
    batch: int = 32
    optimizer: TokenizerOptimizerConfig = TokenizerOptimizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000

    def __post_init__(self) -> None:
        checks = Checks(self)
        checks.filled("name", "out", "data")
        checks.at_least(1, "steps", "batch", "log_every")
        checks.at_least(0, "seed", "eval_every")
        checks.problems += problems_of(self, "optimizer", "loss", "checkpoints")
        warmup = self.optimizer.warmup_steps
        checks.that(
            warmup <= self.steps,
            f"optimizer.warmup_steps is {warmup}, expected at most steps, which is {self.steps}",
        )
        refuse(self, checks.problems)
