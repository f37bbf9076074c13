"""A text model of a few thousand random weights, over bytes, with a chat template, in a folder as an imported
one would be.
"""

from pathlib import Path

import numpy as np
from flax import nnx

from ringvision import model_folder
from ringvision.data.text.gguf import text_from_gguf
from ringvision.data.text.isolation.hugging_face import byte_letters
from ringvision.models.transformer import Transformer, TransformerConfig

TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\\n' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
MAX_LENGTH = 256


def write_chat_model(folder: Path, max_length: int = MAX_LENGTH) -> Path:
    """A model of random weights over bytes and two special tokens, with its template."""
    tokens = ["<|start|>", "<|end|>", *byte_letters()]
    metadata = {
        "ggml.model": "gpt2",
        "ggml.pre": "smollm",
        "ggml.tokens": tokens,
        "ggml.token_type": [3, 3, *[1] * 256],
        "ggml.merges": [],
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 1,
        "chat_template": TEMPLATE,
    }
    text_from_gguf({f"tokenizer.{name}": value for name, value in metadata.items()}, folder)
    config = TransformerConfig(len(tokens), 32, 2, 4, 2, 8, 64, max_length=max_length)
    shapes = model_folder.specs(
        nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    )
    random = np.random.default_rng(2)
    weights = {
        name: np.ones(shape, dtype)
        if name.endswith("scale")
        else (0.3 * random.standard_normal(shape)).astype(dtype)
        for name, (shape, dtype) in shapes.items()
    }
    model_folder.save_model(folder, {"kind": "transformer", "transformer": config.to_dict()}, weights)
    return folder
