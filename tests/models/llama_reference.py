"""A Llama in a page of numpy, float64, one token's row at a time where that is plainest: what the real one is
held against.
"""

import numpy as np


def softmax(scores):
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def norm(x, scale, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * scale


def head_norm(x, layer, name, config):
    """What queries or keys [L, heads, H] become before they are turned."""
    if config.qk_norm == "rms":
        return norm(x, layer[f"attention.{name}_norm"], config.norm_eps)
    if config.qk_norm == "layer":
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return (x - x.mean(axis=-1, keepdims=True)) / spread * layer[f"attention.{name}_norm"] + layer[
            f"attention.{name}_norm_bias"
        ]
    return x


def rotate(x, positions, theta):
    """x [L, heads, H]: dimension i is paired with i + H/2 and turned by position / theta^(2i/H)."""
    half = x.shape[-1] // 2
    angles = positions[:, None, None] / theta ** (2 * np.arange(half) / x.shape[-1])
    first = x[..., :half]
    second = x[..., half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)],
        axis=-1,
    )


def attention(q, k, v, positions, segment_ids, windows):
    """q [L, N, H], k and v [L, K, H]; a token sees the tokens of its own segment at its own position or
    before, less than its window away: windows [L], infinite where there is none. Padding gives zeros.
    """
    out = np.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for t in range(q.shape[0]):
        seen = (segment_ids == segment_ids[t]) & (positions <= positions[t]) & (segment_ids[t] > 0)
        seen &= positions > positions[t] - windows[t]
        for n in range(q.shape[1]):
            if seen.any():
                weights = softmax(k[seen, n // group] @ q[t, n] / np.sqrt(q.shape[-1]))
                out[t, n] = weights @ v[seen, n // group]
    return out


def logits(params, config, tokens, positions, segment_ids):
    """params: {"layers.attention.query": array, …}; tokens, positions, segment_ids [B, L] -> float64 [B, L,
    V].
    """
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    head = params["embed.table"].T if config.tie_embeddings else params["unembed.kernel"]
    rows = []
    for row_tokens, row_positions, row_segments in zip(
        np.asarray(tokens), np.asarray(positions), np.asarray(segment_ids)
    ):
        x = params["embed.table"][row_tokens]
        windows = np.full(len(row_tokens), config.window or np.inf)
        if config.video_window:
            video = row_tokens >= config.code_offset
            windows[video] = np.minimum(windows[video], config.video_window)
        for i in range(config.num_layers):
            layer = {
                name.removeprefix("layers."): value[i]
                for name, value in params.items()
                if name.startswith("layers.")
            }
            normed = norm(x, layer["attention_norm.scale"], config.norm_eps)
            q, k, v = (
                np.einsum("ld,dnh->lnh", normed, layer[f"attention.{name}"])
                for name in ("query", "key", "value")
            )
            if config.qkv_bias:
                q, k, v = (
                    x + layer[f"attention.{name}_bias"]
                    for x, name in zip((q, k, v), ("query", "key", "value"))
                )
            q = head_norm(q, layer, "query", config)
            k = head_norm(k, layer, "key", config)
            if config.sharpened_from:
                growth = np.log(1 + row_positions) / np.log(1 + config.sharpened_from)
                growth[growth < 1] = 1
                if config.video_window:
                    growth[row_tokens >= config.code_offset] = 1
                q = q * growth[:, None, None]
            q = rotate(q, row_positions, config.rope_theta)
            k = rotate(k, row_positions, config.rope_theta)
            heads = attention(q, k, v, row_positions, row_segments, windows)
            x = x + np.einsum("lnh,nhd->ld", heads, layer["attention.output"])
            normed = norm(x, layer["feed_forward_norm.scale"], config.norm_eps)
            gate = normed @ layer["feed_forward.gate"]
            x = (
                x
                + (gate / (1 + np.exp(-gate)) * (normed @ layer["feed_forward.up"]))
                @ layer["feed_forward.down"]
            )
        rows.append(norm(x, params["norm.scale"], config.norm_eps) @ head)
    return np.stack(rows)
