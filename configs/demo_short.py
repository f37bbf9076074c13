"""The first stage of the shipped model: clips of at most six seconds, in which there is little to search through.

    ringvision train demo_short

About twenty minutes on two cores; configs/demo.py goes on from its weights. Codes and questions are predicted too (a little): what is asked
of a video says what is in it, long before the model can answer.
"""

from ringvision.config import TrainConfig
from ringvision.models.transformer import TransformerConfig

config = TrainConfig(
    name="demo-short",
    out="runs/demo/model-short",
    model=TransformerConfig(
        vocab_size=640 + 1024 + 2,
        embed_dim=256,
        num_layers=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        hidden_dim=640,
        max_length=16384,
    ),
    data="runs/demo/codes",
    eval_data="runs/demo/held-codes",
    text_model="runs/demo/text.model",
    tokenizer="world-16",
    most_frames=6,
    vision_weight=2.0,
    question_weight=0.3,
    length=512,
    rows=4,
    steps=1500,
    lr=1e-3,
    min_lr=5e-4,
    warmup_steps=100,
    weight_decay=0.05,
    ema=0.99,
    turns_max=10,
    mesh="context=1",
    embed_codebook=True,
    checkpoint_every=250,
    log_every=25,
    eval_every=250,
    eval_examples=270,
)
