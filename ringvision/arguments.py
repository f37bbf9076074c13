"""The words of the command line: every command with its options, and what a mistake in them is told.

Imports nothing of the package: the commands themselves are in cli.py.
"""

import argparse
import difflib
import math
from collections.abc import Callable
from typing import Any, NoReturn

from ringvision import __version__
from ringvision.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    """Of the whole command; what it parses has `command`, and `what` where a command has several."""
    parser = Parser(
        prog="ringvision",
        description="Ask a video: it is read once, whole, by a transformer on a ring of devices.",
    )
    parser.add_argument("--version", action="version", version=f"ringvision {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    ask = commands.add_parser("ask", help="answer a question about a video")
    ask.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video file; several are seen one after another"
    )
    ask.add_argument("question", metavar="QUESTION")
    _add_model(ask)
    seeing = "what turns the video into codes (default: the one that the model names)"
    ask.add_argument("--tokenizer", metavar="NAME|DIR", help=seeing)
    ask.add_argument(
        "--fps", type=_positive, default=1.0, help="frames to look at in each second (default 1)"
    )
    _add_sampler(ask, max_tokens=128)
    _add_json(ask)

    chat = commands.add_parser("chat", help="hold a conversation with a text model, such as an imported one")
    chat.add_argument("folder", metavar="MODEL", help="a model folder")
    chat.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    _add_devices(chat)
    _add_sampler(chat, max_tokens=512)

    generate = commands.add_parser("generate", help="draw frames: a picture, or a film")
    generate.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what is to be seen, for models that draw from text"
    )
    generate.add_argument("--frames", type=_count_of, default=1, metavar="N", help="how many (default 1)")
    generate.add_argument("--out", required=True, metavar="FILE", help=".png or .mp4")
    generate.add_argument("--video", metavar="VIDEO", help="what the frames go on from")
    closely = "how closely the prompt is followed (default: the model's, mostly 5; 1: no guidance)"
    generate.add_argument("--guidance", type=float, metavar="G", help=closely)
    later = (
        "the same for frames after the first (default: as --guidance; 1 where a model is "
        "asked for them in other words, as LWM is)"
    )
    generate.add_argument("--video-guidance", type=float, metavar="G", help=later)
    drafts = "of how many drafts a frame is chosen, for models that say what they see (default: the model's)"
    generate.add_argument("--candidates", type=_count_of, metavar="N", help=drafts)
    generate.add_argument(
        "--fps", type=_positive, help="frames a second of the film (default: the model's own)"
    )
    _add_model(generate)
    generate.add_argument(
        "--tokenizer",
        metavar="NAME|DIR",
        help="what turns codes into pictures (default: the one that the model names)",
    )
    _add_sampler(generate, temperature=1.0)
    _add_json(generate)

    bring = commands.add_parser("import", help="somebody else's weights -> a model or tokenizer folder")
    bring.add_argument("source", metavar="SOURCE", help="a file, a folder, hf:OWNER/NAME, or smollm2")
    bring.add_argument("dest", metavar="DEST", help="the folder to write")
    bring.add_argument(
        "--config",
        metavar="FILE",
        help="a config.json, or taming's .yaml, to be read in the place of the one beside",
    )
    bring.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="store the weights so (default: as they come)",
    )
    eyes = "a model's own video tokenizer, such as LWM's, imported before: it is copied into DEST"
    bring.add_argument("--tokenizer", metavar="NAME|DIR", help=eyes)
    bring.add_argument(
        "--dry-run", action="store_true", help="print the table of names and what is wrong; write nothing"
    )
    bring.add_argument(
        "--add-vision",
        metavar="NAME|DIR",
        help="SOURCE is a text model: grow it rows for this video tokenizer's codes",
    )
    bring.add_argument("--seed", type=int, default=0, help="of the noise in rows that --add-vision adds")
    _add_json(bring)

    export = commands.add_parser(
        "export", help="a model or video tokenizer for transformers or diffusers, or for LWM"
    )
    export.add_argument("model", metavar="MODEL", help="a model folder, or a video tokenizer's")
    export.add_argument("dest", metavar="DEST", help="the folder to write")
    export.add_argument("--format", choices=("hf", "lwm"), required=True)
    export.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: as it is stored)"
    )
    _add_json(export)

    tokenize = commands.add_parser(
        "tokenize", help="turn videos into codes on disk; goes on where it stopped"
    )
    tokenize.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, globs, manifests (.csv, .jsonl, .parquet), tfds:NAME/SPLIT",
    )
    tokenize.add_argument("--out", required=True, metavar="DIR")
    _add_tokenizer(tokenize)
    tokenize.add_argument(
        "--size", type=_count_of, metavar="PIXELS", help="a side of a frame (default: the tokenizer's)"
    )
    tokenize.add_argument(
        "--batch",
        type=_count_of,
        default=64,
        metavar="N",
        help="frames that are encoded together (default 64)",
    )
    tokenize.add_argument(
        "--workers",
        type=_count_of,
        metavar="N",
        help="videos decoded at once (default: processors and one more)",
    )
    tokenize.add_argument(
        "--devices",
        type=_count_of,
        metavar="N",
        help="on a CPU, make N devices of it; batches are spread over all there are",
    )
    tokenize.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine, or a Ray cluster (default local)",
    )
    tokenize.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of the cluster, such as auto or ray://HOST:10001 (default: start one here)",
    )
    tokenize.add_argument(
        "--format",
        choices=("array_record", "jsonl"),
        default="array_record",
        help="jsonl is LWM's (default array_record)",
    )
    tokenize.add_argument(
        "--shard-size", type=_count_of, default=256, metavar="N", help="inputs to a file (default 256)"
    )
    tokenize.add_argument("--retry", choices=("failed",), help="try those again that failed before")
    tokenize.add_argument("--limit", type=_count_of, metavar="N", help="only the first N inputs")
    tokenize.add_argument(
        "--shard",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="only the I-th of N parts of the inputs, for N machines",
    )
    tokenize.add_argument(
        "--decoder",
        choices=("auto", "decord", "av"),
        default="auto",
        help="(default auto: av, steady on damaged videos)",
    )
    _add_limits(tokenize)
    _add_json(tokenize)

    tokens = commands.add_parser("tokens", help="look at codes on disk").add_subparsers(
        dest="what", metavar="WHAT", required=True, parser_class=Parser
    )
    look = tokens.add_parser("inspect", help="counts, lengths, which codes are used, and a sheet of pictures")
    look.add_argument("folder", metavar="DIR", help="what tokenize wrote")
    look.add_argument(
        "--out", metavar="FILE", help="a contact sheet, decoded back to pictures: .png or .html"
    )
    look.add_argument(
        "--tokenizer", metavar="NAME|DIR", help="the one that made the codes (default: the shipped one)"
    )
    look.add_argument(
        "--videos", type=_count_of, default=12, metavar="N", help="rows of the sheet (default 12)"
    )
    _add_json(look)

    reconstruct = commands.add_parser(
        "reconstruct", help="a video through the tokenizer and back, side by side, with PSNR and SSIM"
    )
    reconstruct.add_argument("video", metavar="VIDEO")
    reconstruct.add_argument("out", metavar="OUT", help="the .mp4 to write")
    _add_tokenizer(reconstruct)
    _add_json(reconstruct)

    for name, what in (("train", "the transformer"), ("train-tokenizer", "a video tokenizer")):
        train = commands.add_parser(
            name, help=f"train {what}; goes on from its last checkpoint", add_help=False
        )
        train.epilog = (
            f"Overrides follow the config: ringvision {name} CONFIG --lr 1e-3. All of them: "
            f"ringvision {name} CONFIG --help"
        )
        train.add_argument(
            "config",
            metavar="CONFIG",
            help="a Python file that sets `config`, or the name of one in configs/",
        )
        train.add_argument("--devices", type=_count_of, metavar="N", help="on a CPU, make N devices of it")
        train.add_argument("--explain", action="help", help=argparse.SUPPRESS)

    evaluate = commands.add_parser("evaluate", help="score the model, or a tokenizer").add_subparsers(
        dest="what", metavar="WHAT", required=True, parser_class=Parser
    )
    world = evaluate.add_parser(
        "world", help="questions about held-out scenes of the drawn world, through real files"
    )
    _add_model(world)
    world.add_argument(
        "--examples", type=_count_of, default=800, metavar="N", help="how many questions (default 800)"
    )
    world.add_argument("--seed", type=int, default=0, metavar="S", help="which held-out scenes (default 0)")
    world.add_argument(
        "--fps", type=_positive, default=1.0, help="frames to look at in each second (default 1)"
    )
    _add_json(world)

    tokenizer = evaluate.add_parser(
        "tokenizer", help="how well a tokenizer keeps videos: PSNR, SSIM, flicker, which codes are used"
    )
    tokenizer.add_argument(
        "--videos",
        nargs="+",
        required=True,
        metavar="INPUT",
        help="as for tokenize: files, folders, globs, manifests",
    )
    _add_tokenizer(tokenizer)
    tokenizer.add_argument("--limit", type=_count_of, metavar="N", help="only the first N videos")
    tokenizer.add_argument(
        "--out", metavar="OUT.mp4", help="a film of all of them, original and reconstruction side by side"
    )
    tokenizer.add_argument(
        "--inception", metavar="FILE", help="weights of the Inception network (safetensors): rFID as well"
    )
    tokenizer.add_argument(
        "--lpips", metavar="FILE", help="weights of VGG-16 and the LPIPS heads (safetensors): LPIPS as well"
    )
    _add_json(tokenizer)

    demo = commands.add_parser("demo", help="open the web page, on this machine alone")
    demo.add_argument("--model", metavar="DIR", help="a model folder (default: the shipped one)")
    demo.add_argument("--port", type=int, default=7860)
    demo.add_argument("--open", action="store_true", help="open it in the browser")
    demo.add_argument("--devices", type=_count_of, metavar="N", help="on a CPU, make N devices of it")

    doctor = commands.add_parser(
        "doctor", help="say what is installed, which devices there are, and what does not work"
    )
    _add_json(doctor)
    return parser


class Parser(argparse.ArgumentParser):
    """One line for a mistake, with the nearest command for a misspelt one; no abbreviations."""

    def __init__(self, **settings: Any):
        super().__init__(**{**settings, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            given, _, choices = message.partition("invalid choice: ")[2].partition(" (choose from ")
            words = [word.strip(" '()") for word in choices.split(",")]
            close = difflib.get_close_matches(given.strip("'"), words, n=1)
            option = (
                message.removeprefix("argument ").partition(":")[0]
                if message.startswith("argument -")
                else ""
            )
            what = f"{option} is {given}" if option else f"no command {given}"
            message = f"{what}: " + (
                f"did you mean {close[0]}?" if close else f"there are {', '.join(words)}"
            )
        raise UserError(f"{message} (see {self.prog} --help)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="a model folder (default: the shipped one)")
    _add_devices(parser)


def _add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices",
        type=_count_of,
        metavar="N",
        help="spread the work over N devices; a CPU is made into N of them",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXES",
        help="which axis gets how many: context=4,data=2 (default: all on context, the ring)",
    )
    types = "of the weights and what is computed with them; stored: as on disk (default float32)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "stored"), help=types)


def _add_sampler(
    parser: argparse.ArgumentParser, *, temperature: float = 0.0, max_tokens: int | None = None
) -> None:
    what = f"0 takes the likeliest token (default {temperature:g})"
    parser.add_argument("--temperature", type=float, default=temperature, help=what)
    parser.add_argument(
        "--top-k", type=int, default=0, help="draw from the k likeliest tokens only; 0 for all"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="draw from the fewest tokens that reach this probability"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    if max_tokens is not None:
        longest = f"the longest answer (default {max_tokens})"
        parser.add_argument("--max-tokens", type=_count_of, default=max_tokens, metavar="N", help=longest)


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer", metavar="NAME|DIR", help="one of tokenizers/ or a folder (default: the shipped one)"
    )
    parser.add_argument(
        "--fps", type=_positive, default=1.0, help="frames to take of each second (default 1)"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _count_of(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given, expected a whole number from 1 upward")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} was given, expected a number above 0")
    return value


LIMITS: dict[str, tuple[Callable[[str], float], str]] = {
    "max_side": (_count_of, "pixels of its longer side"),
    "max_pixels": (_count_of, "pixels of a frame"),
    "max_frames": (_count_of, "frames"),
    "max_duration": (_positive, "seconds"),
    "seconds_a_frame": (_positive, "the longest wait for a frame, in seconds"),
    "memory": (_count_of, "bytes of address space of the process that decodes"),
}


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "limits", "what a video may ask for; beyond it it is refused before it is decoded"
    )
    for name, (kind, what) in LIMITS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=what)


def _part(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} was given, expected I/N with I from 1 to N, such as 1/4")
    return int(number), int(of)
