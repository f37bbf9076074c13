"""`ringvision evaluate ruler` and `perplexity`: scores of models that read text."""

import dataclasses
import sys
from typing import Annotated

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions
from ringvision.cli.evaluate_options import NUMBERS, Against, ResultFolder, command_line, numbers
from ringvision.cli.options import CacheDtype
from ringvision.cli.output import print_result
from ringvision.cli.parsing import COUNT, WHOLE, Command, Json, option

TextModelFolder = Annotated[
    str, option("the folder of a model that reads text, such as an imported one", "DIR")
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateRuler(Command):
    model: TextModelFolder
    lengths: Annotated[
        str | None,
        NUMBERS,
        option(
            "tokens of text and answer",
            default="4096,8192,16384,32768,65536,131072, as many as the model reads",
        ),
    ] = None
    tasks: Annotated[tuple[str, ...], option("some of its tasks", "TASK", default="all eleven")] = ()
    examples: Annotated[int, COUNT, option("of each task and length")] = 20
    seed: Annotated[int, WHOLE, option("which texts", "S")] = 0
    cache_dtype: CacheDtype = None
    out: ResultFolder = None
    against: Against = ()
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        from ringvision.evaluate.ruler import (
            KIND,
            LENGTHS,
            TASKS,
            RulerSettings,
            evaluate_ruler,
            lengths_read,
            ruler_text,
        )

        settings = RulerSettings(
            numbers(self.lengths, LENGTHS), self.tasks or tuple(TASKS), self.examples, self.seed
        )
        from ringvision.evaluate.earlier import read_earlier

        earlier = read_earlier(self.against, KIND)
        mesh = self.mesh.make()
        from ringvision.evaluate.text_model import load_text_model

        model = load_text_model(self.model, mesh, dtype=self.mesh.dtype, cache_dtype=self.cache_dtype)
        if self.lengths is None:
            settings = dataclasses.replace(settings, lengths=lengths_read(model.max_length))
        result = evaluate_ruler(
            model,
            settings,
            out=self.out,
            earlier=earlier,
            command=command_line("ruler", self),
            progress=sys.stderr,
        )
        print_result(result, ruler_text(result, earlier), as_json=self.json)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatePerplexity(Command):
    data: Annotated[
        str,
        Positional,
        option(
            "text (.txt, .md, .jsonl, .parquet, a folder of them), or a folder that tokenize wrote", "DATA"
        ),
    ]
    model: Annotated[str, option("a model folder", "DIR")]
    length: Annotated[
        int | None, COUNT, option("tokens of the longest piece", default="4096, or all that the model reads")
    ] = None
    field: Annotated[str, option("of a record: its text, or its messages", "NAME")] = "text"
    documents: Annotated[int | None, COUNT, option("how many documents", default="all")] = None
    seed: Annotated[int, WHOLE, option("which ones, where not all are read", "S")] = 0
    out: ResultFolder = None
    against: Against = ()
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        from ringvision.evaluate.perplexity import KIND, LENGTH, PerplexitySettings

        settings = PerplexitySettings(self.data, self.field, self.length or LENGTH, self.documents, self.seed)
        from ringvision.evaluate.earlier import read_earlier

        earlier = read_earlier(self.against, KIND)
        mesh = self.mesh.make()
        from ringvision.evaluate.documents import Documents
        from ringvision.evaluate.perplexity import evaluate_perplexity, perplexity_text
        from ringvision.infer.model import load_model

        model = load_model(self.model, mesh, dtype=self.mesh.dtype)
        if self.length is None:
            settings = dataclasses.replace(settings, length=min(LENGTH, model.config.max_length))
        result = evaluate_perplexity(
            model,
            Documents(self.data, self.model, self.field, settings.length),
            settings,
            out=self.out,
            earlier=earlier,
            command=command_line("perplexity", self),
            progress=sys.stderr,
        )
        print_result(result, perplexity_text(result, earlier), as_json=self.json)
        return 1 if result["bad"] else 0
