"""Files that are made to do harm when they are read as weights: to run a command, to take all memory or time,
to reach other files.

`HOSTILE` maps a name to a function of a folder, which writes the file there and returns its path. What could
run a command would make the file `canary` in that folder.
"""

from hostile.gguf_files import GGUF, gguf_text, of_gguf
from hostile.msgpack_files import MSGPACK, extension
from hostile.pickles import ARMED, PICKLES, text
from hostile.safetensors_files import SAFETENSORS, fields, safetensors
from hostile.torch_files import TORCH, torch_tensor

HOSTILE = PICKLES | TORCH | MSGPACK | SAFETENSORS | GGUF

__all__ = [
    "ARMED",
    "HOSTILE",
    "extension",
    "fields",
    "gguf_text",
    "of_gguf",
    "safetensors",
    "text",
    "torch_tensor",
]
