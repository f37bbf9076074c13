"""Several questions about one video in one batch against the same questions one after another.

    python scripts/bench_batch.py --json batch.json
    python scripts/bench_batch.py --model FOLDER --video FILE --devices 2
    python scripts/bench_batch.py --seconds 240 --max-tokens 8

The video is read beforehand, by both alike: what is timed is from the questions to the last of their answers.
Greedy, after everything was compiled; ways alternate, medians. `--seconds` draws a video of the world of that
length in the place of a file, and asks what is known of it. Prints the machine and a Markdown table; exits
with 1 where the answers in a batch are others than alone. Wall-clock times mean little while the machine is
busy with other things, so the processor time of the process stands beside them.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

CLIP = Path(__file__).parents[1] / "demos" / "clips" / "needle.mp4"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a folder of kind assistant; the shipped one without it")
    parser.add_argument("--video", type=Path, default=CLIP)
    parser.add_argument("--seconds", type=int, help="draw a video of so many")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--questions", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    assistant = _assistant(options)
    with tempfile.TemporaryDirectory() as scratch:
        return _report(options, assistant, Path(scratch))


def _report(options: argparse.Namespace, assistant: Any, scratch: Path) -> int:
    video, asked = _drawn(options.seconds, scratch) if options.seconds else _known(options.video)
    head = machine(("ringvision", "jax", "jaxlib"))
    print(", ".join(f"{name} {value}" for name, value in head.items()))
    read = assistant.ask(video, asked[0], max_tokens=1)
    print(f"\n{read.video_tokens} tokens of video, {options.devices} devices, medians of {options.repeats}")
    print("\n| questions | one after another, ms | in one batch, ms | ratio | processor time, ratio |")
    print("| --- | --- | --- | --- | --- |")
    report: dict[str, Any] = {"machine": head, "devices": options.devices, "questions": {}}
    holds = True
    for count in options.questions:
        chosen = [asked[index % len(asked)] for index in range(count)]
        found = _compare(assistant, video, chosen, options.repeats, options.max_tokens)
        holds &= found["same"]
        print(
            f"| {count} | {found['alone'] * 1e3:.1f} | {found['batch'] * 1e3:.1f} | {found['ratio']:.2f} | "
            f"{found['processor_ratio']:.2f} |"
        )
        if not found["same"]:
            print(f"\nthe answers to {count} questions in one batch are others than alone")
        report["questions"][count] = found
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if holds else 1


def _assistant(options: argparse.Namespace) -> Any:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    from ringvision.infer.assistant import load
    from ringvision.mesh import make_mesh

    return load(options.model, make_mesh(context=options.devices))


def _known(video: Path) -> tuple[Path, list[str]]:
    """The video, and what the clips' notes know to ask about it, or questions that go with any."""
    notes = video.parent / "clips.json"
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
    asked = list(known.get(video.name, {}).get("ask", ()))
    return video, asked or ["What appeared?", "When was the card shown?"]


def _drawn(seconds: int, scratch: Path) -> tuple[Path, list[str]]:
    """A held-out video of so many seconds, and questions about it."""
    from ringvision.data.world import HELD_OUT, long_questions, make_long_scene, write_video

    scene = make_long_scene(HELD_OUT, seconds)
    path = scratch / "long.mp4"
    write_video(scene, path, fps=1)
    return path, [question.text for question in long_questions(scene)]


def _compare(
    assistant: Any, video: Path, questions: list[str], repeats: int, max_tokens: int
) -> dict[str, Any]:
    """Medians in seconds, their ratios, and whether the answers are the same."""

    def alone() -> list[str]:
        return [assistant.ask(video, question, max_tokens=max_tokens).text for question in questions]

    def batch() -> list[str]:
        return [reply.text for reply in assistant.ask_many(video, questions, max_tokens=max_tokens)]

    answers = alone(), batch()
    times: dict[str, list[float]] = {"alone": [], "batch": []}
    processor: dict[str, list[float]] = {"alone": [], "batch": []}
    ways: tuple[tuple[str, Callable[[], list[str]]], ...] = (("alone", alone), ("batch", batch))
    for _ in range(repeats):
        for name, way in ways:
            began = time.perf_counter()
            worked = time.process_time()
            way()
            times[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - worked)
    median = {name: statistics.median(values) for name, values in times.items()}
    worked_by = {name: statistics.median(values) for name, values in processor.items()}
    return {
        **median,
        "ratio": median["alone"] / median["batch"],
        "processor_ratio": worked_by["alone"] / worked_by["batch"],
        "processor": worked_by,
        "same": answers[0] == answers[1],
        "times": times,
    }


if __name__ == "__main__":
    sys.exit(main())
