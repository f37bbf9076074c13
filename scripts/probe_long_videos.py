"""What a model answers about long videos whose codes are put together from held-out short ones, by kind of
question: a look at a training that goes on, in seconds, where `ringvision evaluate` draws and reads files.

    python scripts/probe_long_videos.py runs/demo/long/model --seconds 24 --leaps 1 --videos 10
    python scripts/probe_long_videos.py runs/demo/long/model --seconds 600 --videos 3 --show 10

The model reads each video once, and all questions about it (ringvision/data/world/long_questions.py) as
batches. Times are right within two seconds, everything else word for word. Prints the share of right answers,
and with --show some that were wrong.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ringvision.data.sources import LongWorldData
from ringvision.evaluate.video_tasks import Asking
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.sampler import Sampler
from ringvision.infer.scheduler import DecodeRequest

AT_ONCE = 8
LONGEST_ANSWER = 16
WITHIN = 2
SEED = 77


def answers(assistant: Assistant, codes_and_times: tuple, questions: list[str]) -> list[str]:
    """What is said to each question about one video."""
    prompts = assistant.processor.prompts
    codes, _ = codes_and_times
    prefix = assistant.engine.prefill(prompts.videos([codes_and_times]))
    prefix = replace(prefix, frames=len(codes))
    said = []
    for first in range(0, len(questions), AT_ONCE):
        requests = [
            DecodeRequest(
                prompts.question(question),
                Sampler(),
                LONGEST_ANSWER,
                stop=frozenset({assistant.eos}),
                prefix=prefix,
                ids=(0, assistant.text.size),
            )
            for question in questions[first : first + AT_ONCE]
        ]
        for stream in assistant.scheduler.submit(requests):
            said.append(assistant.text.decode([id for id in stream if id != assistant.eos]).strip())
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--codes", default="runs/demo/held-codes", help="of scripts/tokenize_world.py")
    parser.add_argument("--seconds", type=int, default=24)
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--leaps", type=float, default=0.0, help="share whose parts are spread over an hour")
    parser.add_argument("--show", type=int, default=0, help="wrong answers")
    options = parser.parse_args()
    assistant = load(options.model)
    videos = LongWorldData(
        folder=options.codes,
        shortest=options.seconds,
        longest=options.seconds,
        leaps=options.leaps,
        seed=SEED,
    ).open_videos()
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong = []
    for index in range(options.videos):
        questions = videos.questions(index, 0, options.seconds)
        said = answers(assistant, videos.video(index), [one.question for one in questions])
        for one, answer in zip(questions, said, strict=True):
            is_time = one.kind in ("when", "end")
            asking = Asking(one.kind, one.question, one.answer, WITHIN if is_time else None)
            asked[one.kind] += 1
            right[one.kind] += asking.is_right(answer)
            if not asking.is_right(answer):
                wrong.append(f"{one.question} {one.answer!r}, said: {answer!r}")
    print(f"all: {right.total() / asked.total():.1%} of {asked.total()}")
    for kind, count in asked.items():
        print(f"{kind}: {right[kind] / count:.0%} of {count}")
    print("\n".join(wrong[: options.show]))


if __name__ == "__main__":
    main()
