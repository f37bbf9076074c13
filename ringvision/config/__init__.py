"""What a training run is told: nested frozen dataclasses that check themselves.

train.py      TrainConfig: the transformer's training
stages.py     StageConfig: what is other in one of its stages
tokenizer.py  TokenizerTrainConfig: the video tokenizer's training
parts.py      what both are made of: optimizer, mesh, checkpoints, ...
files.py      the files of configs/, and overrides from the command line

A part (`data`, `optimizer`, ...) lists what is wrong with it; the config gathers that of all parts and raises
it at once, under the names by which an override would change it.
"""

from ringvision.config.files import RENAMED, apply_overrides, load_config
from ringvision.config.parts import (
    CheckpointConfig,
    EvaluationConfig,
    HealthConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
)
from ringvision.config.stages import StageConfig
from ringvision.config.tokenizer import TokenizerLossConfig, TokenizerOptimizerConfig, TokenizerTrainConfig
from ringvision.config.train import TrainConfig

__all__ = [
    "RENAMED",
    "CheckpointConfig",
    "EvaluationConfig",
    "HealthConfig",
    "LoraConfig",
    "MeshConfig",
    "OptimizerConfig",
    "StageConfig",
    "TokenizerLossConfig",
    "TokenizerOptimizerConfig",
    "TokenizerTrainConfig",
    "TrainConfig",
    "apply_overrides",
    "load_config",
]
