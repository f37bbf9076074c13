"""The shipped model: answers questions about the videos of data/world, at one frame a second.

    ringvision train demo --devices 2

It begins with single frames and sees longer and longer parts of the videos. Questions and codes are predicted
too (a little), since what is asked of a video says what is in it, long before the model can answer. What it
took and scored stands in demos/model/MODEL_CARD.md. Data, text model and video tokenizer come from
scripts/make_demo_model.sh, which runs this in its place.
"""

from ringvision.config import CheckpointConfig, EvaluationConfig, MeshConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, WorldData
from ringvision.models.presets import TransformerConfig

config = TrainConfig(
    name="demo",
    out="runs/demo/model",
    model=TransformerConfig(
        vocab_size=640 + 1024 + 2,
        embed_dim=192,
        num_layers=6,
        num_heads=6,
        num_kv_heads=3,
        head_dim=32,
        hidden_dim=512,
        max_length=16384,
        frame_period=2 + 16 + 1,
        code_offset=640,
    ),
    data=DataConfig(
        sources=(
            WorldData(
                folder="runs/demo/codes",
                turns_max=10,
                vision_weight=0.3,
                question_weight=0.3,
                grow_from=3,
                grow_steps=5400,
            ),
        ),
        text_model="runs/demo/text.model",
        tokenizer="world-16",
        length=512,
        rows=6,
    ),
    steps=9000,
    optimizer=OptimizerConfig(
        kind="muon", muon_lr=0.01, lr=2e-3, min_lr=4e-5, warmup_steps=100, weight_decay=0.05, ema=0.997
    ),
    mesh=MeshConfig(data=2),
    checkpoints=CheckpointConfig(every=250),
    evaluation=EvaluationConfig(folder="runs/demo/held-codes", every=500, examples=330),
    embed_codebook=True,
    log_every=25,
)
