"""Llama and models of its architecture as Hugging Face's transformers names them: Llama 2 and 3, SmolLM2,
Mistral, Qwen2, Qwen3.

    model.layers.{layer}.self_attn.q_proj.weight [N*H, D]  <->  layers.attention.query [layers, D, N, H]

The config of transformers 4 (`rope_theta`, `rope_scaling`) and of 5 (`rope_parameters`) are both read and
both written.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.models.transformer import TransformerConfig
from ringvision.ops.rope import RopeScaling, scaling_from
from ringvision.vocabulary import Vocabulary
from ringvision.weights.family import (
    MOST_LAYERS,
    Family,
    Settings,
    layers_in,
    root_of,
    shown,
    transformer_folder,
)
from ringvision.weights.table import NameRow, Table, matrix, vector
from ringvision.weights.tensors import Tensors, TensorSpec

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
IGNORABLE = (r".*rotary_emb\.inv_freq",)
OURS = "ringvision"
KEPT = ("stream", "generation")
"""Under which name an exported config.json keeps what is ours alone, and what that is beside the vocabulary:
how the model is asked.
"""
ROWS_AT_ONCE = 4096
WINDOW = 4096
FIRST_WITH_WINDOW = 28
"""transformers' defaults of sliding_window and max_window_layers."""

FIRST = "model.layers.0."
_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_MLP = _LAYER + "mlp."
ROWS = (
    NameRow("embed.table", EMBEDDING),
    NameRow("layers.attention.query", _ATTENTION + "q_proj.weight", matrix(out_first=True)),
    NameRow("layers.attention.key", _ATTENTION + "k_proj.weight", matrix(out_first=True)),
    NameRow("layers.attention.value", _ATTENTION + "v_proj.weight", matrix(out_first=True)),
    NameRow("layers.attention.output", _ATTENTION + "o_proj.weight", matrix(2, out_first=True)),
    NameRow("layers.attention.query_bias", _ATTENTION + "q_proj.bias", vector()),
    NameRow("layers.attention.key_bias", _ATTENTION + "k_proj.bias", vector()),
    NameRow("layers.attention.value_bias", _ATTENTION + "v_proj.bias", vector()),
    NameRow("layers.attention.query_norm", _ATTENTION + "q_norm.weight"),
    NameRow("layers.attention.key_norm", _ATTENTION + "k_norm.weight"),
    NameRow("layers.attention.query_norm_bias", _ATTENTION + "q_norm.bias"),
    NameRow("layers.attention.key_norm_bias", _ATTENTION + "k_norm.bias"),
    NameRow("layers.attention_norm.scale", _LAYER + "input_layernorm.weight"),
    NameRow("layers.feed_forward_norm.scale", _LAYER + "post_attention_layernorm.weight"),
    NameRow("layers.feed_forward.gate", _MLP + "gate_proj.weight", matrix(out_first=True)),
    NameRow("layers.feed_forward.up", _MLP + "up_proj.weight", matrix(out_first=True)),
    NameRow("layers.feed_forward.down", _MLP + "down_proj.weight", matrix(out_first=True)),
    NameRow("norm.scale", "model.norm.weight"),
    NameRow("unembed.kernel", HEAD, matrix(out_first=True)),
)


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """A language model under these names. UserError for a kind of model under the same names that computes
    something else.
    """
    prefix = root_of(tensors.specs, EMBEDDING)
    if prefix is None:
        return None
    kind = config.get("model_type")
    if kind is not None and kind not in MODEL_TYPES:
        raise UserError(
            f"a model of type {shown(kind)} was given; expected {', '.join(MODEL_TYPES)}: others "
            "compute something else"
        )
    settings = Settings(config)
    transformer = transformer_config(settings, tensors.specs, prefix)
    if transformer.tie_embeddings and _has_another_head(tensors, prefix):
        raise UserError(
            f"the config says tie_word_embeddings, and {prefix}{HEAD} is not {prefix}{EMBEDDING}; "
            "give a config (--config) that says false "
            "where the model is to keep its head, or weights without it"
        )
    folder = transformer_folder(transformer, Table(ROWS, prefix), _vocabulary(config), _special_ids(config))
    kept = {name: value for name, value in _own(config).items() if name in KEPT}
    return Family(
        f"{(kind or 'llama').capitalize()} (Hugging Face)",
        (replace(folder, config={**folder.config, **kept}),),
        (*IGNORABLE, r".*lm_head\.weight") if transformer.tie_embeddings else IGNORABLE,
        tuple(settings.assumed),
    )


def _has_another_head(tensors: Tensors, prefix: str) -> bool:
    """Whether the file has a head that differs from the embeddings; compared a few rows at a time."""
    embedding, head = (tensors.specs.get(prefix + name) for name in (EMBEDDING, HEAD))
    if embedding is None or head is None or embedding.shape != head.shape:
        return head is not None
    pieces = (
        (start, min(start + ROWS_AT_ONCE, head.shape[0])) for start in range(0, head.shape[0], ROWS_AT_ONCE)
    )
    return any(
        not np.array_equal(tensors.read(prefix + EMBEDDING, rows), tensors.read(prefix + HEAD, rows))
        for rows in pieces
    )


def transformer_config(
    settings: Settings, found: Mapping[str, TensorSpec], prefix: str = "", *, qk_norm: str | None = None
) -> TransformerConfig:
    """The architecture, from the settings where they say it and from the tensors' shapes where they do not.

    Args:
        settings: their config.
        found: their tensors.
        prefix: what stands before the tensors' names.
        qk_norm: "layer" for Chameleon's; None: "rms" where such tensors are found.

    Returns:
        our config.

    Raises:
        UserError: names all that is wrong or unknown.
    """

    def size(name: str, axis: int) -> int | None:
        spec = found.get(prefix + name)
        return spec.shape[axis] if spec is not None and axis < len(spec.shape) else None

    kind = settings.get("model_type")
    settings.only("hidden_act", "silu", "swish")
    settings.only("mlp_bias", False)
    layers = layers_in(found, prefix + "model.layers.", ".input_layernorm.weight")
    width = settings.whole("hidden_size", default=size(EMBEDDING, 1))
    heads = _heads(
        settings,
        width,
        size(FIRST + "self_attn.q_proj.weight", 0),
        size(FIRST + "self_attn.k_proj.weight", 0),
    )
    theta, scaling = rope_settings(settings)
    if f"{prefix}{FIRST}self_attn.o_proj.bias" in found:
        settings.wrong.append(
            "o_proj has a bias (attention_bias), and only query, key and value may have one here"
        )
    bias = f"{prefix}{FIRST}self_attn.q_proj.bias" in found or kind == "qwen2"
    normed = f"{prefix}{FIRST}self_attn.q_norm.weight" in found or kind == "qwen3"
    layers = settings.whole("num_hidden_layers", default=layers or None, most=MOST_LAYERS)
    values: dict[str, Any] = {
        "vocab_size": settings.whole("vocab_size", default=size(EMBEDDING, 0)),
        "embed_dim": width,
        "num_layers": layers,
        **heads,
        "hidden_dim": settings.whole("intermediate_size", default=size(FIRST + "mlp.gate_proj.weight", 0)),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "norm_eps": settings.real("rms_norm_eps", default=1e-6, why="transformers' default"),
        "tie_embeddings": settings.flag("tie_word_embeddings", prefix + HEAD not in found),
        "max_length": settings.whole("max_position_embeddings", default=4096, why="no config says it"),
        "qkv_bias": bias or settings.flag("attention_bias", False),
        "qk_norm": qk_norm or ("rms" if normed else "none"),
        "window": _window(settings, layers),
    }
    settings.report()
    return TransformerConfig(**values)


def _heads(settings: Settings, width: int, rows: int | None, kv_rows: int | None) -> dict[str, int]:
    """num_heads, num_kv_heads and head_dim; rows, kv_rows: of the projections to queries and to keys."""
    if settings.get("num_attention_heads") is not None:
        heads = settings.whole("num_attention_heads")
        head_dim = settings.whole("head_dim", default=width // heads)
        kv_heads = heads
    else:
        head_dim = settings.whole("head_dim", default=128, why="no config says it")
        heads = max(1, (rows or head_dim) // head_dim)
        kv_heads = max(1, (kv_rows or head_dim) // head_dim)
    kv_heads = settings.whole("num_key_value_heads", default=kv_heads)
    return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}


def rope_settings(settings: Settings) -> tuple[float, RopeScaling | None]:
    """Base and scaling, of either generation of config. What is wrong with them is added to
    `settings.wrong`.
    """
    rope = {**settings.mapping("rope_scaling"), **settings.mapping("rope_parameters")}
    inner = Settings(
        {
            "rope_theta": settings.get("rope_theta"),
            **{name: value for name, value in rope.items() if value is not None},
        }
    )
    theta = inner.real("rope_theta", default=10000.0, why="transformers' default")
    settings.wrong += inner.wrong
    settings.assumed += inner.assumed
    length = settings.get("max_position_embeddings")
    try:
        return theta, scaling_from(rope, length if isinstance(length, int) else 4096)
    except UserError as error:
        settings.wrong.append(str(error))
        return theta, None


def _window(settings: Settings, layers: int) -> int | None:
    """How far back attention reaches, where a config limits it. Qwen's counts only where it is switched on,
    and from some layer on.
    """
    kind = settings.get("model_type")
    if kind not in MODEL_TYPES[1:] or settings.values.get("sliding_window", WINDOW) is None:
        return None
    if kind != "mistral":
        if not settings.flag("use_sliding_window", False):
            return None
        with_window = _layers_with_window(settings, layers)
        if 0 < with_window < layers:
            settings.wrong.append(
                f"{with_window} of {layers} layers have a window (layer_types, max_window_layers), "
                "expected all or none"
            )
        if not with_window:
            return None
    return settings.whole("sliding_window", default=WINDOW, why="transformers' default")


def _layers_with_window(settings: Settings, layers: int) -> int:
    """By layer_types, a word for each layer, where there are such; else all from some layer on."""
    types = settings.get("layer_types")
    if isinstance(types, list):
        return sum(word == "sliding_attention" for word in types[:layers])
    return max(0, layers - settings.whole("max_window_layers", default=FIRST_WITH_WINDOW, least=0))


def _own(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an export of ours left in the config."""
    own = config.get(OURS)
    return own if isinstance(own, Mapping) else {}


def _vocabulary(config: Mapping[str, Any]) -> Vocabulary | None:
    own = _own(config).get("vocabulary")
    if not isinstance(own, Mapping):
        return None
    try:
        return Vocabulary.from_dict(own)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the vocabulary in this config cannot be read ({error}); export the model again"
        ) from error


def _special_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """bos, an id; eos, an id or several."""
    ids = {}
    for ours, theirs in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
        value = config.get(theirs)
        if type(value) is int or (
            isinstance(value, list) and value and all(type(one) is int for one in value)
        ):
            ids[ours] = value
    return ids


def config_of(config: TransformerConfig, settings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json that transformers reads for this model. settings: our own config.json. UserError where
    it has no such model.
    """
    odd = {
        "places in a frame": config.frame_period > 0,
        "time stamps with ids of their own": config.stamp_rows > 0,
        "a window for video tokens alone": config.video_window is not None,
        "LayerNorm on queries": config.qk_norm == "layer",
        "norms behind attention": config.norm_placement == "after",
        "queries sharpened by position": config.sharpened_from is not None,
        "folded rotary positions": config.rope_scaling is not None and config.rope_scaling.kind == "folded",
        "channels that do not turn": config.rope_scaling is not None and config.rope_scaling.turning < 1,
        "both bias and norm": config.qk_norm == "rms" and config.qkv_bias,
    }
    if what := " and ".join(name for name, there in odd.items() if there):
        raise UserError(
            f"this model has {what}, which no Llama, Mistral, Qwen2 or Qwen3 has; it cannot be "
            "exported to that form"
        )
    kind = (
        "qwen3"
        if config.qk_norm == "rms"
        else "qwen2"
        if config.qkv_bias
        else "mistral"
        if config.window
        else "llama"
    )
    rope = _rope_of(config.rope_scaling)
    theirs: dict[str, Any] = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if kind != "llama":
        theirs["sliding_window"] = config.window
    if kind in ("qwen2", "qwen3"):
        theirs |= {
            "use_sliding_window": config.window is not None,
            "max_window_layers": 0 if config.window else config.num_layers,
        }
    vocabulary = settings.get("vocabulary") or {}
    text = settings.get("text") or {}
    for ours, name in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
        if (token := text.get(ours, vocabulary.get(ours))) is not None:
            theirs[name] = token
    own = {name: settings[name] for name in ("vocabulary", *KEPT) if settings.get(name)}
    return theirs | ({OURS: own} if own else {})


def _rope_of(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    rope: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        names = (
            ("low_freq_factor", "high_freq_factor")
            if scaling.kind == "llama3"
            else ("beta_slow", "beta_fast")
        )
        rope |= dict(zip(names, (scaling.low_frequency, scaling.high_frequency)))
        rope["original_max_position_embeddings"] = scaling.trained_length
    return rope | ({"attention_factor": scaling.amplitude} if scaling.kind == "yarn" else {})
