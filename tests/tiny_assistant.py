"""An assistant of a few thousand random weights, in a folder as a trained one would be, and videos to ask it
about.
"""

from pathlib import Path

from flax import nnx
from random_weights import random_weights

from ringvision import model_folder
from ringvision.data.text.sentencepiece_tokenizer import train_text_tokenizer
from ringvision.data.world import make_scene, questions, write_video
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.vocabulary import Vocabulary

VQGAN_CONFIG = VQGANConfig(
    resolution=16,
    channels=8,
    channel_mults=(1, 1),
    num_res_blocks=1,
    z_channels=8,
    embed_dim=4,
    codebook_size=32,
    patch_size=2,
    norm_groups=4,
)
MAX_LENGTH = 640
STAMPS = 63
HOURS = {
    "frame_period": 18,
    "stamp_rows": STAMPS,
    "video_window": 24,
    "sharpened_from": 32,
    "rope_scaling": {"factor": 1.0, "trained_length": 64, "kind": "folded", "turning": 0.5},
}
"""What the shipped model has that reads hours, in small."""


def write_assistant(folder: Path, *, hours: bool = False) -> Path:
    """Writes the folder of an assistant, its video tokenizer inside it. hours: with HOURS."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [
        f"USER: {q.text} ASSISTANT: {q.answer}" for seed in range(20) for q in questions(make_scene(seed))
    ]
    text = train_text_tokenizer(sentences, folder / "text.model", 512)
    vocabulary = Vocabulary(
        text.size,
        VQGAN_CONFIG.codebook_size,
        text.bos,
        text.eos,
        text.vision_start,
        text.vision_end,
        stamps=STAMPS if hours else 0,
    )
    config = TransformerConfig(vocabulary.size, 32, 2, 4, 2, 8, 64, max_length=MAX_LENGTH)
    if hours:
        more = {**HOURS, "code_offset": vocabulary.code_offset}
        config = TransformerConfig.from_dict(config.to_dict() | more)
    vqgan = {
        "kind": "vqgan",
        "name": "tiny",
        "size": VQGAN_CONFIG.resolution,
        "vqgan": VQGAN_CONFIG.to_dict(),
    }
    frozen = random_weights(lambda: VQGAN(VQGAN_CONFIG, rngs=nnx.Rngs(0)), 0.3)
    model_folder.save_model(folder / "video_tokenizer", vqgan, frozen)
    settings = {
        "kind": "assistant",
        "transformer": config.to_dict(),
        "vocabulary": vocabulary.to_dict(),
        "stream": {"stamps": True},
        "video_tokenizer": "video_tokenizer",
    }
    # Larger weights than a model starts training with: its logits lie apart, and its answers differ from
    # question to question.
    params = random_weights(lambda: Transformer(config, rngs=nnx.Rngs(0)), 0.3)
    model_folder.save_model(folder, settings, params)
    return folder


def write_clip(path: Path, seed: int = 3) -> Path:
    """A short video of the world at `path`."""
    write_video(make_scene(seed), path, fps=4, size=32)
    return path
