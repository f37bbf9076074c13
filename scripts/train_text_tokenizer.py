"""Trains the shipped model's text tokenizer on what is asked and answered about the world.

    python scripts/train_text_tokenizer.py runs/demo/text.model

Whole words of that world become single pieces; everything else is spelt in letters or bytes and comes back
unchanged. Takes seconds.
"""

import argparse

from ringvision.data.stream import StreamFormat
from ringvision.data.text.sentencepiece_tokenizer import train_text_tokenizer
from ringvision.data.world import make_scene, questions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--scenes", type=int, default=3000)
    arguments = parser.parse_args()
    form = StreamFormat().question
    sentences = [
        f"{form.replace('{question}', question.text)} {question.answer}"
        for seed in range(arguments.scenes)
        for question in questions(make_scene(seed))
    ]
    text = train_text_tokenizer(sentences, arguments.out, arguments.size)
    print(f"{arguments.out}: {text.size} pieces")


if __name__ == "__main__":
    main()
