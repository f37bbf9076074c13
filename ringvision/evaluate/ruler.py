"""RULER (Hsieh et al., 2024): how long a text a model still uses, by eleven tasks at several lengths.

    tasks x lengths x examples ─TextModel→ answers ─string match→ averages by length → effective length

The effective length is the longest one whose average over the tasks is at least THRESHOLD, which is what
Llama-2-7B scored at 4,096 tokens. RULER's average is over thirteen tasks; the two that need SQuAD and
HotpotQA are left out (ruler_tasks.py says what else is our own), so scores can be compared with each other
and not, to the last percent, with published ones.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import numpy as np

from ringvision.errors import UserError
from ringvision.evaluate.earlier import Scores, comparison
from ringvision.evaluate.heatmap import draw_heatmap
from ringvision.evaluate.length_and_depth import percent, rows_with
from ringvision.evaluate.progress import TimeLeft
from ringvision.evaluate.result_log import ResultLog, Row
from ringvision.evaluate.ruler_tasks import TASKS, RulerExample, RulerTask, fit
from ringvision.evaluate.text_model import Completer
from ringvision.evaluate.whole_numbers import check_least
from ringvision.options import closest

KIND = "ruler"
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
THRESHOLD = 0.856
LEAST_TOKENS = 1024
"""The shortest length: the worked examples of vt and cwe fit, and something besides."""


@dataclass(frozen=True)
class RulerSettings:
    """What is asked.

    lengths: tokens of prompt and answer together. tasks: their names in TASKS. examples: of each task and
    length. seed: which ones. UserError for what cannot be asked.
    """

    lengths: tuple[int, ...] = LENGTHS
    tasks: tuple[str, ...] = tuple(TASKS)
    examples: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for tokens in self.lengths:
            if tokens < LEAST_TOKENS:
                raise UserError(f"a length of {tokens} tokens was given; expected at least {LEAST_TOKENS}")
        for name, given in (("lengths", self.lengths), ("tasks", self.tasks)):
            if not given or len(set(given)) < len(given):
                raise UserError(f"{name} {list(given)} were given; expected at least one, each once")
        for task in self.tasks:
            if task not in TASKS:
                hint = closest(task, list(TASKS)) or f"there are {', '.join(TASKS)}"
                raise UserError(f"RULER has no task {task!r} here: {hint}")
        check_least(self, examples=1, seed=0)


def lengths_read(max_length: int) -> tuple[int, ...]:
    """Those of LENGTHS that a model of this context reads. UserError where it reads none of them."""
    found = tuple(length for length in LENGTHS if length <= max_length)
    if not found:
        raise UserError(
            f"the model reads {max_length} tokens, and RULER begins at {LENGTHS[0]}; give shorter --lengths"
        )
    return found


def evaluate_ruler(
    model: Completer,
    settings: RulerSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    earlier: Mapping[str, Scores] | None = None,
    command: str = "",
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Asks a text model all that the settings say, shortest texts first.

    Args:
        model: what is evaluated.
        settings: what is asked (None: the defaults).
        out: a folder for settings.json, results.jsonl, result.json, result.md and heatmap.png; from there a
            run that was stopped goes on (None: nothing is written).
        earlier: averages of earlier runs that stand beside these, as read_earlier gives them.
        command: that was given, for the record.
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"effective_length": tokens, or None where no length reaches the threshold, "threshold", "average",
        "weighted_increasing", "weighted_decreasing": the averages of all lengths, in which the longest or the
        shortest weighs most, as RULER has them, "lengths": [{"tokens", "average", "examples", "tasks": {name:
        score}}], "scores", "record"}. Scores are in [0, 1].

    Raises:
        UserError: the model reads less, a task does not fit a length; for
            `out` as ResultLog.
    """
    settings = settings or RulerSettings()
    longest = max(settings.lengths)
    limit = getattr(model, "max_length", longest)
    if longest > limit:
        raise UserError(
            f"a length of {longest} tokens was given, and the model reads {limit}; give shorter --lengths"
        )
    _check_fit(model, settings)
    kept = {"kind": KIND, **asdict(settings), "model": getattr(model, "hash", None)}
    with ResultLog(out, kept, command) as log:
        _ask_all(model, settings, log, progress)
        result = _scores(settings, log)
        log.finish(result, ruler_text(result, earlier))
        if log.folder is not None:
            _draw(log.folder / "heatmap.png", settings, result)
    return result


def _check_fit(model: Completer, settings: RulerSettings) -> None:
    """UserError where the smallest example of a task does not fit the shortest length: better said before
    hours of others.
    """
    shortest = min(settings.lengths)
    for name in settings.tasks:
        task = TASKS[name]
        example = task.make(np.random.default_rng(settings.seed), task.least, shortest)
        needed = len(model.tokens(example.prompt, example.opening)) + task.answer_tokens
        if needed > shortest:
            raise UserError(
                f"{name} takes at least {needed} tokens of this model's tokenizer, more than the {shortest} "
                "of --lengths; give longer ones, or other --tasks"
            )


def _ask_all(model: Completer, settings: RulerSettings, log: ResultLog, progress: TextIO | None) -> None:
    waiting = [
        (length, TASKS[name])
        for length in sorted(settings.lengths)
        for name in settings.tasks
        if any(_key(length, name, number) not in log for number in range(settings.examples))
    ]
    questions = len(settings.lengths) * len(settings.tasks) * settings.examples
    left = sum(
        length
        for length, task in waiting
        for number in range(settings.examples)
        if _key(length, task.name, number) not in log
    )
    time_left = TimeLeft(progress, log, questions, left)
    for length, task in waiting:
        for number, example in _examples(model, task, length, settings, log):
            tokens = model.tokens(example.prompt, example.opening)
            answer = model.complete(tokens, task.answer_tokens).strip()
            score = example.score(answer)
            log.add(
                {
                    "key": _key(length, task.name, number),
                    "length": length,
                    "task": task.name,
                    "tokens": len(tokens),
                    "expected": list(example.answers),
                    "answer": answer,
                    "score": score,
                    "right": score == 1,
                }
            )
            time_left.done(length)


def _examples(
    model: Completer, task: RulerTask, length: int, settings: RulerSettings, log: ResultLog
) -> Iterator[tuple[int, RulerExample]]:
    """Those that are not in the log yet, with their numbers: each as large as fits the length."""

    def measure(example: RulerExample) -> int:
        return len(model.tokens(example.prompt, example.opening))

    where = list(TASKS).index(task.name)
    fitting = fit(task, [settings.seed, 15, where, length, 0], length, measure)
    for number in range(settings.examples):
        if _key(length, task.name, number) in log:
            continue
        size = fitting
        while True:
            random = np.random.default_rng([settings.seed, 15, where, length, number])
            example = task.make(random, size, length)
            if size == task.least or measure(example) + task.answer_tokens <= length:
                break
            size = max(task.least, size - max(1, size // 50))
        yield number, example


def _key(length: int, task: str, number: int) -> str:
    return f"{length}/{task}/{number}"


def _mean(rows: Sequence[Row]) -> float:
    return float(np.mean([row["score"] for row in rows]))


def _scores(settings: RulerSettings, log: ResultLog) -> dict[str, Any]:
    rows = list(log.rows.values())
    lengths: list[dict[str, Any]] = []
    for length in sorted(settings.lengths):
        here = rows_with(rows, length=length)
        tasks = {name: _mean(rows_with(here, task=name)) for name in settings.tasks}
        average = float(np.mean(list(tasks.values())))
        lengths.append({"tokens": length, "average": average, "examples": len(here), "tasks": tasks})
    averages = np.array([cell["average"] for cell in lengths])
    weights = np.arange(1, len(averages) + 1)
    reached = [cell["tokens"] for cell in lengths if cell["average"] >= THRESHOLD]
    return {
        "effective_length": max(reached, default=None),
        "threshold": THRESHOLD,
        "average": float(averages.mean()),
        "weighted_increasing": float(np.average(averages, weights=weights)),
        "weighted_decreasing": float(np.average(averages, weights=weights[::-1])),
        "lengths": lengths,
        "scores": {f"{cell['tokens']} tokens": cell["average"] for cell in lengths},
        "record": {**log.settings, "runs": log.runs},
    }


def ruler_text(result: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """The scores for people, in markdown.

    Args:
        result: as evaluate_ruler gives it.
        earlier: the scores of other runs by name, for a table beside them.
    """
    lengths = result["lengths"]
    lines = [
        f"| task | {' | '.join(str(cell['tokens']) for cell in lengths)} |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for name in result["record"]["tasks"]:
        lines.append(f"| {name} | {' | '.join(percent(cell['tasks'][name]) for cell in lengths)} |")
    lines.append(f"| average | {' | '.join(percent(cell['average']) for cell in lengths)} |")
    found = result["effective_length"]
    effective = f"{found} tokens" if found else f"below {lengths[0]['tokens']} tokens"
    lines += [
        "",
        f"Effective length (average of at least {result['threshold']:.1%}): "
        f"{effective}. Average {percent(result['average'])}, with the longest weighing most "
        f"{percent(result['weighted_increasing'])}, with the shortest "
        f"{percent(result['weighted_decreasing'])}.",
    ]
    if beside := comparison(result["scores"], earlier or {}):
        lines += ["", *beside]
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"


def _draw(path: os.PathLike[str], settings: RulerSettings, result: Mapping[str, Any]) -> None:
    lengths = result["lengths"]
    draw_heatmap(
        path,
        [
            *([cell["tasks"][name] for cell in lengths] for name in settings.tasks),
            [cell["average"] for cell in lengths],
        ],
        columns=[str(cell["tokens"]) for cell in lengths],
        rows=[*settings.tasks, "average"],
        title="RULER",
        across="tokens of text and answer",
        down="task",
    )
