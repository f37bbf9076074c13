"""What a model answers about long videos whose codes are put together from held-out short ones, by kind of
question: a look at a training that goes on, in seconds, where `ringvision evaluate` draws and reads files.

    python scripts/probe_long_videos.py runs/demo/long/model --seconds 24 --leaps 1 --videos 10
    python scripts/probe_long_videos.py runs/demo/long/model --seconds 600 --videos 3 --show 10
    python scripts/probe_long_videos.py runs/demo/long/model --seconds 600 --videos 3 --looks 4 --around 20

The model reads each video once, and all questions about it (ringvision/data/world/long_questions.py) as
batches. Times are right within two seconds, everything else word for word. Prints the share of right answers,
and with --show some that were wrong. With --around only questions that name a second are asked, of the frames
around it alone: what is wrong then is not the length's fault.
"""

import argparse
from collections import Counter
from dataclasses import replace
from itertools import compress
from pathlib import Path

from ringvision.data.sources import LongWorldData
from ringvision.data.times import named_times
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


def around(video: tuple, seconds: int, at: int) -> tuple:
    """So many seconds of (codes, times) around second `at`."""
    codes, times = video
    near = abs(times - at) <= seconds / 2
    return codes[near], times[near]


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
    parser.add_argument("--looks", type=int, default=1, help="questions about a time, of each kind")
    parser.add_argument("--around", type=int, help="seconds of the video that are shown of each question")
    options = parser.parse_args()
    assistant = load(options.model)
    videos = LongWorldData(
        folder=options.codes,
        shortest=options.seconds,
        longest=options.seconds,
        leaps=options.leaps,
        glances=4 * options.looks,
        looks=options.looks,
        seed=SEED,
    ).open_videos()
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong = []
    for index in range(options.videos):
        questions = videos.questions(index, 0, options.seconds)
        video = videos.video(index)
        if options.around is None:
            said = answers(assistant, video, [one.question for one in questions])
        else:
            seconds = [[60 * m + s for m, s in named_times(one.question)] for one in questions]
            is_in = [len(named) == 1 and named[0] in video[1] for named in seconds]
            questions = list(compress(questions, is_in))
            said = [
                answers(assistant, around(video, options.around, second), [one.question])[0]
                for one, (second,) in zip(questions, compress(seconds, is_in), strict=True)
            ]
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
