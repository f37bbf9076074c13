"""Ask a video: it becomes one stream of tokens, and a transformer whose attention runs round a ring of
devices reads it whole.

    import ringvision as rv
    assistant = rv.load()                                        # the shipped model
    reply = assistant.ask(["clip.mp4"], "Which digit was on the card?")
    for piece in reply:                                          # the answer as it is generated
        print(piece, end="", flush=True)

Each name of `__all__` is imported when it is first used: `import ringvision` itself imports neither jax nor
numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ringvision.errors import UserError

if TYPE_CHECKING:
    from ringvision.infer.assistant import load
    from ringvision.infer.model import load_model
    from ringvision.ops.ring import ring_attention
    from ringvision.video_tokenizer import load_video_tokenizer

__version__ = "0.1.0"
__all__ = ["UserError", "load", "load_model", "load_video_tokenizer", "ring_attention"]

_MODULES = {
    "load": "ringvision.infer.assistant",
    "load_model": "ringvision.infer.model",
    "load_video_tokenizer": "ringvision.video_tokenizer",
    "ring_attention": "ringvision.ops.ring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ringvision' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
