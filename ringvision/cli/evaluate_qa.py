"""`ringvision evaluate qa QUESTIONS --videos DIR`: a model's scores on questions of public benchmarks."""

import dataclasses
import sys
from typing import Annotated

from tyro.conf import Positional

from ringvision.cli.devices import Mesh, MeshOptions
from ringvision.cli.evaluate_options import Against, ResultFolder, command_line
from ringvision.cli.options import CacheDtype, FramesASecond, MaxTokens, Model
from ringvision.cli.output import print_result, say
from ringvision.cli.parsing import COUNT, WHOLE, Command, Json, choice, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateQa(Command):
    questions: Annotated[
        str, Positional, option("a file of questions, as its benchmark publishes it", "QUESTIONS")
    ]
    videos: Annotated[str, option("the folder of the videos", "DIR")]
    format: Annotated[
        str,
        choice("auto", "activitynet-qa", "msvd-qa", "msrvtt-qa", "tgif-qa", "video-mme", "lvbench"),
        option("whose form the file has; auto: told by its fields"),
    ] = "auto"
    answers: Annotated[
        str | None,
        option("the file of the answers, where they are apart", "FILE", default="X_a.json beside X_q.json"),
    ] = None
    model: Model = None
    fps: FramesASecond = 1.0
    max_tokens: MaxTokens = 32
    examples: Annotated[int | None, COUNT, option("how many questions", default="all")] = None
    seed: Annotated[int, WHOLE, option("of which videos, where not all are asked", "S")] = 0
    cache_dtype: CacheDtype = None
    out: ResultFolder = None
    against: Against = ()
    json: Json = False
    mesh: Mesh = dataclasses.field(default_factory=MeshOptions)

    def run(self) -> int:
        from ringvision.evaluate.earlier import read_earlier
        from ringvision.evaluate.qa import KIND, QaSettings, evaluate_qa, qa_text
        from ringvision.evaluate.qa_formats import read_questions
        from ringvision.evaluate.qa_videos import find_videos

        settings = QaSettings(self.fps, self.max_tokens, self.examples, self.seed)
        form, questions = read_questions(self.questions, self.format, self.answers)
        videos, missing = find_videos(self.videos, [one.video for one in questions], self.questions)
        if missing:
            say(f"{len(missing)} of {len(videos) + len(missing)} videos are not there, such as {missing[0]}")
        earlier = read_earlier(self.against, KIND)
        mesh = self.mesh.make(by_core=True)
        from ringvision.infer.assistant import load

        assistant = load(self.model, mesh=mesh, dtype=self.mesh.dtype, cache_dtype=self.cache_dtype)
        result = evaluate_qa(
            assistant,
            form,
            questions,
            videos,
            settings,
            out=self.out,
            earlier=earlier,
            command=command_line("qa", self),
            progress=sys.stderr,
        )
        print_result(result, qa_text(result, earlier), as_json=self.json)
        return 1 if result["missing"]["videos"] or result["unreadable"] else 0
