"""LWM's language models: Llama in Flax, text alone or with a second table of embeddings and a second head for
vision.

    transformer/h/scan_decoder/attention/wq/kernel [layers, D, N*H]  <->
        layers.attention.query [layers, D, N, H]
    transformer/wte/embedding [T, D] over transformer/vte/embedding [V, D]  <->  embed.table [T+V, D]
    lm_head/kernel [D, T] beside vision_head/kernel [D, V]  <->  unembed.kernel [D, T+V]

LWM turns adjacent pairs of a head's channels, we halves: q and k are permuted. Layers lie on axis 0 or 1 of
one tensor, or apart (`transformer/h/0/…`). Kernels are [in, out]. Its config calls the base of rotary
positions `theta`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ringvision.data.generation_format import GenerationFormat
from ringvision.data.stream import StreamFormat
from ringvision.errors import UserError
from ringvision.models.transformer import TransformerConfig
from ringvision.vocabulary import Vocabulary
from ringvision.weights.family import MOST_LAYERS, Family, Settings, layers_in, root_of, transformer_folder
from ringvision.weights.table import SAME, NameRow, Table, matrix
from ringvision.weights.tensors import Tensors, TensorSpec

TEXT = "transformer/wte/embedding"
VISION = "transformer/vte/embedding"
IGNORABLE = (r"(.*/)?opt_state/.*", r"(.*/)?step")
LLAMA_PIECES = 32000
VISION_START = (529, 4924, 29958)
VISION_END = (1533, 4924, 29958)
"""`<vision>` and `</vision>` in Llama 2's pieces: "▁<" or "▁</", then "vision" and ">"."""

CHAT_START = "You are a helpful assistant. USER: "
STREAM = StreamFormat(stamps=False, question=CHAT_START + "{question}\n{video} ASSISTANT:", in_step=False)
"""A question about a video, as LWM's chat asks it."""
GENERATION = GenerationFormat(
    CHAT_START + "Generate an image of {prompt} ASSISTANT:",
    CHAT_START + "Generate a video of {prompt} ASSISTANT:",
    fps=4.0,
)
"""The first frame is asked for as an image, the rest as a video that begins with it."""
CHAT = (
    "<s>{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% else %}You are a helpful assistant.{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '' if loop.previtem is defined and loop.previtem['role'] == 'assistant' else ' ' }}"
    "USER: {{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %} ASSISTANT: {{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""A conversation, in the words of LWM's text models; turns after the first as Vicuna's, whose words these
are.
"""

_LAYER = {
    "layers.attention.query": ("attention/wq", matrix(out_first=False, pairs=True)),
    "layers.attention.key": ("attention/wk", matrix(out_first=False, pairs=True)),
    "layers.attention.value": ("attention/wv", matrix(out_first=False)),
    "layers.attention.output": ("attention/wo", matrix(2, out_first=False)),
    "layers.attention_norm.scale": ("attention_norm", SAME),
    "layers.feed_forward_norm.scale": ("ffn_norm", SAME),
    "layers.feed_forward.gate": ("feed_forward/w1", SAME),
    "layers.feed_forward.up": ("feed_forward/w3", SAME),
    "layers.feed_forward.down": ("feed_forward/w2", SAME),
}


def rows(parts: tuple[int, ...] = (), layer_axis: int | None = 0) -> tuple[NameRow, ...]:
    """The table. parts: (text rows, vision rows), () without vision. layer_axis: None where every layer has
    tensors of its own.
    """
    layer = "transformer/h/{layer}/" if layer_axis is None else "transformer/h/scan_decoder/"
    layers = (
        NameRow(ours, f"{layer}{theirs}/kernel", transform, layer_axis=layer_axis)
        for ours, (theirs, transform) in _LAYER.items()
    )
    embeddings = (TEXT, VISION)
    heads = ("lm_head/kernel", "vision_head/kernel")
    return (
        NameRow("embed.table", embeddings if parts else TEXT, parts=parts),
        *layers,
        NameRow("norm.scale", "transformer/ln_f/kernel"),
        NameRow("unembed.kernel", heads if parts else heads[0], parts=parts, axis=1),
    )


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """LWM's parameters, alone or within a train state."""
    found = tensors.specs
    prefix = root_of(tensors.specs, TEXT)
    if prefix is None or not any(name.startswith(prefix + "transformer/h/") for name in found):
        return None
    settings = Settings(config)
    axis = _layer_axis(settings, found, prefix)
    transformer, parts = _architecture(settings, found, prefix, axis)
    vocabulary = _vocabulary(settings, *parts) if parts else None
    tied = (r".*lm_head/kernel", r".*vision_head/kernel") if transformer.tie_embeddings else ()
    folder = transformer_folder(
        transformer, Table(rows(parts, axis), prefix), vocabulary, _special_ids(settings)
    )
    words = {"stream": STREAM.to_dict(), "generation": GENERATION.to_dict()} if parts else {}
    return Family(
        f"LWM ({'text and vision' if parts else 'text'})",
        (replace(folder, config={**folder.config, **words, "chat_template": CHAT}),),
        (*IGNORABLE, *tied),
        tuple(settings.assumed),
    )


def _layer_axis(settings: Settings, found: Mapping[str, TensorSpec], prefix: str) -> int | None:
    """On which axis layers are counted: by the feed-forward kernel, which is [D, F] with the layers before or
    behind D.
    """
    spec = found.get(f"{prefix}transformer/h/scan_decoder/feed_forward/w1/kernel")
    if spec is None:
        return None
    width = (1, *found[prefix + TEXT].shape)[-1]
    if len(spec.shape) == 3 and spec.shape[0] == spec.shape[1] == width:
        return settings.whole(
            "param_scan_axis", default=0, why="as many layers as channels: LWM's default", least=0, most=1
        )
    return 1 if len(spec.shape) == 3 and spec.shape[0] == width else 0


def _architecture(
    settings: Settings, found: Mapping[str, TensorSpec], prefix: str, axis: int | None
) -> tuple[TransformerConfig, tuple[int, ...]]:
    """The config, and (text rows, vision rows), () without vision."""
    layer = f"{prefix}transformer/h/{'0' if axis is None else 'scan_decoder'}/"

    def columns(name: str) -> int:
        """Of a kernel [D, columns] of one layer; 0 where it is missing."""
        spec = found.get(f"{layer}{name}/kernel")
        shape = spec.shape if spec is not None else ()
        return (*(shape if axis is None else (*shape[:axis], *shape[axis + 1 :])), 0, 0)[1]

    text, width = (*found[prefix + TEXT].shape, 1, 1)[:2]
    vision = (*found[prefix + VISION].shape, 1)[0] if prefix + VISION in found else 0
    up = found.get(f"{layer}feed_forward/w1/kernel")
    layers = (
        layers_in(found, f"{prefix}transformer/h/", "/ffn_norm/kernel")
        if axis is None
        else (*up.shape, 0, 0)[axis]
        if up
        else 0
    )
    width = settings.whole("hidden_size", default=width)
    heads = _heads(settings, width, columns("attention/wq"), columns("attention/wk"))
    long = vision > 0 or settings.get("theta", "rope_theta") is None
    tied = settings.flag("tie_word_embeddings", f"{prefix}lm_head/kernel" not in found)
    if vision and tied != settings.flag("tie_vision_embeddings", tied):
        settings.wrong.append(
            "tie_word_embeddings and tie_vision_embeddings differ, and here both are tied or neither"
        )
    text = settings.whole("vocab_size", default=text)
    vision = settings.whole("vision_vocab_size", default=vision) if vision else 0
    values: dict[str, Any] = {
        "vocab_size": text + vision,
        "embed_dim": width,
        "num_layers": settings.whole("num_hidden_layers", default=layers or None, most=MOST_LAYERS),
        **heads,
        "hidden_dim": settings.whole("intermediate_size", default=columns("feed_forward/w1") or None),
        "rope_theta": settings.real(
            "theta", "rope_theta", default=5e7, why="as LWM's models of a million tokens; no config says it"
        ),
        "norm_eps": settings.real("rms_norm_eps", default=1e-6, why="LWM's default"),
        "tie_embeddings": tied,
        "max_length": settings.whole(
            "max_sequence_length",
            "max_position_embeddings",
            default=2**20 if long else 4096,
            why="no config says it",
        ),
    }
    settings.report()
    return TransformerConfig(**values), (text, vision) if vision else ()


def _heads(settings: Settings, width: int, columns: int, kv_columns: int) -> dict[str, int]:
    """num_heads, num_kv_heads and head_dim; columns, kv_columns: of the query and key projections."""
    if settings.get("num_attention_heads") is not None:
        heads = settings.whole("num_attention_heads")
        head_dim = settings.whole("head_dim", default=max(1, width // heads))
    else:
        head_dim = settings.whole(
            "head_dim", default=100 if width == 3200 else 128, why="as LWM's models have; no config says it"
        )
        heads = max(1, columns // head_dim)
        if columns % head_dim:
            settings.wrong.append(
                f"num_attention_heads is missing, and the {columns} columns of wq are no heads of "
                f"{head_dim}, which is what LWM's models have"
            )
    kv_heads = settings.whole("num_key_value_heads", default=max(1, kv_columns // head_dim))
    return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}


def _vocabulary(settings: Settings, text: int, vision: int) -> Vocabulary:
    codes = _codes(settings, vision)
    bos = settings.whole("bos_token_id", default=1, why="Llama's <s>", least=0)
    eos = settings.whole("eos_token_id", default=2, why="Llama's </s>", least=0)
    start = settings.wholes("vision_start_tokens", default=())
    end = settings.wholes("vision_end_tokens", default=())
    if not (start and end) and text == LLAMA_PIECES:
        start = VISION_START
        end = VISION_END
        settings.assumed.append(
            f"<vision> is {list(start)} and </vision> {list(end)} (Llama 2's pieces; no "
            "tokenizer.model lies beside)"
        )
    elif not (start and end):
        start = (bos,)
        end = (eos,)
        settings.assumed.append(
            "bos and eos stand for <vision> and </vision> (no tokenizer.model lies beside)"
        )
    settings.report()
    return Vocabulary(text, codes, bos, eos, start, end, vision)


def _codes(settings: Settings, vision: int) -> int:
    """How many codes the model knows: all rows before eof, behind which eov is. A config may name more of
    them than a video tokenizer has.
    """
    codes = settings.whole(
        "num_vision_codes", "eof_token", default=min(8192, vision - 2), why="the rest: eof, eov, padding"
    )
    eof = settings.whole("eof_token", default=codes)
    eov = settings.whole("eov_token", default=eof + 1)
    if eof < codes or eov != eof + 1:
        settings.wrong.append(
            f"of {codes} codes, eof_token is {eof} and eov_token {eov}: expected codes before "
            "eof, and eov right behind it"
        )
    elif eof > codes:
        settings.assumed.append(
            f"{eof} codes where num_vision_codes is {codes} (all rows before eof_token count as codes)"
        )
    return eof


def _special_ids(settings: Settings) -> dict[str, int]:
    ids = {
        "bos": settings.whole("bos_token_id", default=1, least=0),
        "eos": settings.whole("eos_token_id", default=2, least=0),
    }
    settings.report()
    return ids


def config_of(config: TransformerConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under LWM's names. settings: our own config.json. UserError where LWM has no such
    model.
    """
    odd = [
        f"{name}={value}"
        for name, value, plain in (
            ("num_kv_heads", config.num_kv_heads, config.num_heads),
            ("head_dim", config.head_dim, config.embed_dim // config.num_heads),
            ("rope_scaling", config.rope_scaling, None),
            ("qkv_bias", config.qkv_bias, False),
            ("qk_norm", config.qk_norm, "none"),
            ("norm_placement", config.norm_placement, "before"),
            ("window", config.window, None),
            ("video_window", config.video_window, None),
            ("sharpened_from", config.sharpened_from, None),
            ("frame_period", config.frame_period, 0),
            ("stamp_rows", config.stamp_rows, 0),
        )
        if value != plain
    ]
    if odd:
        raise UserError(
            f"this model has {', '.join(odd)}, which LWM's models cannot have; export it with --format hf"
        )
    vocabulary = settings.get("vocabulary") or {}
    text = settings.get("text") or {}
    theirs = {
        "model_type": "lwm_video_llama" if vocabulary else "lwm_llama",
        "vocab_size": vocabulary.get("text_size", config.vocab_size),
        "hidden_size": config.embed_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_sequence_length": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": text.get("bos", vocabulary.get("bos", 1)),
        "eos_token_id": text.get("eos", vocabulary.get("eos", 2)),
        "scan_layers": True,
        "param_scan_axis": 0,
    }
    if vocabulary:
        theirs |= {
            "vision_vocab_size": vocabulary["vision_size"],
            "num_vision_codes": vocabulary["num_codes"],
            "tie_vision_embeddings": config.tie_embeddings,
            "vision_start_tokens": vocabulary["vision_start"],
            "vision_end_tokens": vocabulary["vision_end"],
        }
    return theirs
