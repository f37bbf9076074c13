"""lmms-eval's tasks on our models, by its own command. This is its plug-in, which lmms_eval_manifest.py names
to it where both packages are installed in one environment:

    lmms-eval --model ringvision --model_args pretrained=DIR,fps=1 --tasks videomme

Of its kinds of requests `generate_until` and `loglikelihood` are answered; several rounds are refused.
lmms-eval and torch are imported here and by nothing else of this package.
"""

import logging
from typing import Any

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from ringvision.errors import UserError
from ringvision.evaluate.visual_requests import TOGETHER, VisualAnswers, read_request
from ringvision.infer.assistant import load


class RingVision(lmms):
    """An assistant as lmms-eval asks it."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        fps: float = 1.0,
        max_new_tokens: int = 1024,
        dtype: str | None = None,
        cache_dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """
        Args:
            pretrained: the model folder ("": the shipped one).
            fps: frames a second that are read of videos.
            max_new_tokens: of the longest answer, whatever a task says.
            dtype: of weights, see `load_model`.
            cache_dtype: of keys and values, see `load`.
            batch_size: questions about one video that are asked together (1, lmms-eval's default, and "auto":
                16, which changes no answer).
            max_batch_size, device: of lmms-eval's; jax takes all devices that it has.
        """
        super().__init__()
        together = int(batch_size) if batch_size and str(batch_size).isdecimal() else 1
        self._most = int(max_new_tokens)
        self._answers = VisualAnswers(
            load(pretrained or None, dtype=dtype, cache_dtype=cache_dtype),
            fps=float(fps),
            together=together if together > 1 else TOGETHER,
        )

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers, in the order of the requests. A video that cannot be read, or is longer than the model
        reads, is named in a warning and answered with "".
        """
        asked = []
        failed: dict[int, str] = {}
        numbers = []
        for number, request in enumerate(requests):
            prompt, options, to_visual, document, task, split = request.args
            try:
                visuals = to_visual(self.task_dict[task][split][document])
                asked.append(read_request(visuals, prompt, options, most=self._most))
                numbers.append(number)
            except UserError as error:
                failed[number] = str(error)
        texts = [""] * len(requests)
        for place, answer in self._answers.answers(asked):
            if isinstance(answer, UserError):
                failed[numbers[place]] = str(answer)
                continue
            request = requests[numbers[place]]
            texts[numbers[place]] = answer
            self.cache_hook.add_partial("generate_until", request.args[:2], answer)
        for number, why in failed.items():
            document, task = requests[number].args[3:5]
            logging.getLogger(__name__).warning(f"{task}, document {document}: {why}")
        return texts

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """The loss of each continuation, and whether it is the greedy one.

        Two things are not as lmms-eval's own docstring has them, since its runner (0.7.3) is not either: it
        takes the choice of the least number, so that this is the negative log-probability; and it makes a
        string of a pair, but for one inside a GenerationResult (findings/lmms_eval_loglikelihood.sh).
        """
        found = []
        for request in requests:
            prompt, continuation, to_visual, number, task, split = request.args
            document = self.task_dict[task][split][number]
            text = continuation(document) if callable(continuation) else continuation
            score, greedy = self._answers.log_probability(to_visual(document), prompt, text)
            found.append(GenerationResult((-score, greedy)))
        return found

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refused: lmms-eval's interface asks for this method, and in it a task that writes the next question
        from the last answer, which none of those that this plug-in is for does.
        """
        raise NotImplementedError(
            "ringvision answers one round; leave out tasks of output_type generate_until_multi_round"
        )
