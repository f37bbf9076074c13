"""`ringvision chat MODEL`: a conversation, line by line."""

import dataclasses
import sys
from typing import Annotated

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions, describe_mesh
from ringvision.cli.options import CacheDtype, MaxTokens, SamplerOptions, Sampling
from ringvision.cli.output import say
from ringvision.cli.parsing import Command, option


@dataclasses.dataclass(frozen=True)
class StartChat(Command):
    folder: Annotated[str, Positional, option("a model folder", "MODEL")]
    system: Annotated[str | None, option("what the model is told before the conversation", "TEXT")] = None
    max_tokens: MaxTokens = 512
    cache_dtype: CacheDtype = None
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)
    sampler: Sampling = dataclasses.field(default_factory=SamplerOptions)

    def run(self) -> int:
        mesh = self.mesh.make()
        from ringvision.infer.chat import converse, load_chat

        chat = load_chat(
            self.folder,
            mesh,
            system=self.system,
            sampler=self.sampler.make(),
            max_tokens=self.max_tokens,
            dtype=self.mesh.dtype,
            cache_dtype=self.cache_dtype,
        )
        say(f"model ready on {describe_mesh(mesh)}")
        converse(chat, sys.stdin, sys.stdout)
        return 0
