"""Which family a file of weights is of: every family is asked in turn.

tensors, config  --recognise-->  Family
"""

from collections.abc import Callable, Mapping
from typing import Any

from ringvision.errors import UserError
from ringvision.weights import chameleon, emu3, gguf, llama, lwm, vqgan
from ringvision.weights.family import Family
from ringvision.weights.table import gathered
from ringvision.weights.tensors import Tensors

RECOGNISERS: tuple[Callable[[Tensors, Mapping[str, Any]], Family | None], ...] = (
    gguf.recognise,
    lwm.recognise,
    chameleon.recognise,
    emu3.recognise,
    llama.recognise,
    vqgan.recognise,
)
"""In the order in which they are asked: what looks at more comes first."""
KNOWN = (
    "LWM, Llama and its kin (safetensors or GGUF), Chameleon, Emu3, VQGANs of LWM, "
    "vqgan-jax, taming and diffusers"
)


LONGEST = 60
"""Characters of a config's word that an error repeats."""


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family:
    """The family of these weights. UserError where none knows them."""
    for ask in RECOGNISERS:
        family = ask(tensors, config)
        if family is not None:
            return family
    names = [name[:100] for name in gathered(tensors.specs)]
    said = config.get("model_type") or config.get("_class_name")
    kind = f"a {str(said)[:LONGEST]!r}: " if said else ""
    raise UserError(
        f"{kind}{len(tensors.specs)} tensors of no family known here ({', '.join(names[:4])} "
        f"…); known are {KNOWN}"
    )
