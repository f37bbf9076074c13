"""What share of a machine's arithmetic a run uses: operations of a token, and of a device at its peak.

    mfu = tokens a second x flops_per_token / (devices x peak_flops)

Model FLOPs utilisation (Chowdhery et al., PaLM, 2022, appendix B) counts what the model needs, not what is
computed: what remat computes twice counts once, and attention counts the pairs that the causal mask shows.
"""

import re
from typing import Any

import jax.numpy as jnp

from ringvision.models.presets import TransformerConfig


def flops_per_token(
    model: TransformerConfig, length: float, *, weights_trained: bool = True, words: float = 0.0
) -> float:
    """Operations of one token's forward and backward pass; a multiplication and an addition are two.

    Of a layer, forward: 2 for each weight of its matrices, and 4 N H for each pair of a query and a key that
    it sees, of which a token has (length + 1) / 2 on average. The head: 2 D V. Backward: twice that, once for
    the gradient of what was multiplied and once for that of the weights. Norms, rotary positions, softmax and
    the optimizer are left out: a few thousandths in models of more than a few hundred channels.

    Args:
        model: its shape.
        length: tokens of a document, among which attention looks; of packed rows the mean length of what is
            packed, not that of the row.
        weights_trained: False for low-rank pairs and new rows: matrices that stay as they are have no
            gradient, though what they multiply has one. The pairs' own operations are left out.
        words: which share of the tokens are words, spread evenly among those of videos: with a
            `video_window` they see more. Where the share is not known, none: that claims too little and not
            too much.

    Returns:
        Operations, as a float: a model of 7 billion weights has 4e10 and more.
    """
    heads = model.num_heads * model.head_dim
    attention = model.embed_dim * (2 * heads + 2 * model.num_kv_heads * model.head_dim)
    feed_forward = 3 * model.embed_dim * model.hidden_dim
    matrices = model.num_layers * (attention + feed_forward) + model.embed_dim * model.vocab_size
    keys = _keys_seen(length, model.window)
    if model.video_window is not None:
        window = min(model.video_window, model.window or model.video_window)
        keys = words * keys + (1 - words) * _keys_seen(length, window)
    pairs = model.num_layers * 4 * heads * keys
    return (6 if weights_trained else 4) * matrices + 3 * pairs


def _keys_seen(length: float, window: int | None) -> float:
    """How many keys a query sees on average, itself included: query i sees min(i + 1, window)."""
    if window is None or window >= length:
        return (length + 1) / 2
    return (window * (window + 1) / 2 + (length - window) * window) / length


TPU_CORE_PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 137.5e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 229.5e12,
    "TPU v5p": 229.5e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}
"""bfloat16 operations a second of one TensorCore, by jax's `device_kind`: Google's figure for a chip (the
specifications at cloud.google.com/tpu/docs, one page a version) divided by its cores. A device is a chip of
one core (v5e, v6e), two cores as one (v4, v5p), or one core of two (v2, v3, 7x).
"""

GPU_PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165.2e12),
)
"""bfloat16 operations a second of tensor cores, without sparsity and with float32 sums, by the words of jax's
`device_kind`; the first that fits counts. From NVIDIA's data sheets, whose larger figure is with sparsity;
for the RTX 4090 from the Ada architecture's white paper.
"""


def peak_flops(device: Any, dtype: Any) -> float | None:
    """What a device can do at most, by its data sheet.

    Args:
        device: a jax.Device, or what has its `device_kind` and, for a TPU, `num_cores`.
        dtype: of what is multiplied: bfloat16, float16 or float32. For float32 the figure is that of jax's
            default precision: a TPU rounds factors to bfloat16, a GPU to TF32, at half of bfloat16's speed.

    Returns:
        Operations a second; None for a device or a type that is in no table here, as a CPU.
    """
    kind = str(device.device_kind)
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return None
    if kind in TPU_CORE_PEAKS:
        return TPU_CORE_PEAKS[kind] * getattr(device, "num_cores", 1)
    if not kind.startswith("NVIDIA"):
        return None
    if "Laptop" in kind:
        return None
    words = re.split(r"[\s-]+", kind)
    peak = next((peak for model, peak in GPU_PEAKS if set(model.split()) <= set(words)), None)
    return peak if peak is None or dtype != jnp.float32 else peak / 2
