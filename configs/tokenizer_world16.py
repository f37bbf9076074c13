"""The shipped video tokenizer: 64x64 frames, 16 codes a frame out of 1024.

    ringvision train-tokenizer tokenizer_world16

About half an hour on two cores. What it scored stands in tokenizers/world-16/MODEL_CARD.md.
"""

from ringvision.config import (
    CheckpointConfig,
    TokenizerLossConfig,
    TokenizerOptimizerConfig,
    TokenizerTrainConfig,
)
from ringvision.models.vqgan import VQGANConfig

config = TokenizerTrainConfig(
    name="world-16",
    out="runs/demo/tokenizer",
    vqgan=VQGANConfig(
        resolution=64,
        patch_size=16,
        channels=256,
        channel_mults=(1,),
        num_res_blocks=1,
        mid_attention=True,
        z_channels=64,
        embed_dim=16,
        codebook_size=1024,
        local_codes=True,
    ),
    data="runs/demo/frames.npy",
    steps=9000,
    batch=16,
    optimizer=TokenizerOptimizerConfig(lr=1e-3, warmup_steps=200),
    loss=TokenizerLossConfig(codebook_weight=0.25, edge_weight=4.0),
    checkpoints=CheckpointConfig(every=500),
    log_every=50,
    eval_every=500,
)
