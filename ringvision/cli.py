"""The command line: `ringvision COMMAND …` -> one call of one of the floors below.

Answers go to stdout, with `--json` as one JSON object; everything else goes to stderr. Exit status: 0 done, 1 done in part (what failed is
named), 2 the request was wrong (one line says why and what to do), 130 interrupted. Nothing heavy is imported before a command needs it.
"""

import argparse
import contextlib
import difflib
import hashlib
import importlib.util
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ringvision import __version__, shipped
from ringvision.errors import UserError

DONE, IN_PART, WRONG, INTERRUPTED = 0, 1, 2, 130
TRAINING = {"train": "TrainConfig", "train-tokenizer": "TokenizerTrainConfig"}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; -> the exit status. Mistakes of the user's become one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        _say(f"ringvision: {' '.join(str(error).split())}")
        return WRONG
    except MemoryError:
        _say("ringvision: memory ran out; take fewer frames (--fps), a shorter video, or a machine with more memory")
        return WRONG
    except KeyboardInterrupt:
        resumable = arguments[:1] and arguments[0] in (*TRAINING, "tokenize")
        _say("ringvision: interrupted" + ("; the same command goes on from the last thing it saved" if resumable else ""))
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone: nothing is left to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return IN_PART


def _run(arguments: list[str]) -> int:
    if arguments[:1] and arguments[0] in TRAINING and arguments[1:] in (["-h"], ["--help"], []):
        arguments = [arguments[0], "--explain"]  # --help after a config explains that config's options
    options, rest = _parser().parse_known_args(arguments)
    if options.command in TRAINING:
        return _train(options, rest)
    if rest:
        known = [f"--{name.replace('_', '-')}" for name in vars(options) if name != "carry_out"]
        close = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"see ringvision {options.command} --help"
        raise UserError(f"{options.command} takes no {' '.join(rest)}: {hint}")
    return options.carry_out(options)


# ---------------------------------------------------------------------------------------------------------- the commands


def _ask(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    mesh = _mesh(options)
    from ringvision.data.video import probe
    from ringvision.infer.assistant import load
    from ringvision.infer.sampler import Sampler

    sampler = Sampler(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed)
    for video in options.videos:
        probe(video)  # a file that is no video is refused before a model is loaded for it
    assistant = load(options.model, mesh=mesh)
    loaded = time.perf_counter() - started
    _say(f"model ready on {_devices(mesh)} after {loaded:.1f} s")
    settings = {"fps": options.fps, "sampler": sampler, "max_tokens": options.max_tokens, "progress": _progress()}
    reply = assistant.ask(options.videos, options.question, **settings)
    read = time.perf_counter() - started - loaded
    _say(f"read {_count(reply.frames, 'frame')} at {options.fps:g} a second: {_count(reply.video_tokens, 'token')} of video, {read:.1f} s")
    for piece in reply:
        if not options.json:
            print(piece, end="", flush=True)
    seconds = {"load": loaded, **reply.timings, "total": time.perf_counter() - started}
    if options.json:
        answer = {"answer": reply.text, "tokens": reply.tokens, "frames": reply.frames, "video_tokens": reply.video_tokens}
        _print_json({**answer, "devices": reply.devices, "seconds": seconds})
    else:
        print(flush=True)
        _say(", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items()))
    return DONE


def _tokenize(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.tokenize import tokenize_videos

    def progress(source: str, row: Mapping[str, Any]) -> None:
        outcome = _count(row["frames"], "frame") if row["status"] == "done" else f"{row['status']}: {row['message']}"
        _say(f"{source}: {outcome}")

    settings = {"fps": options.fps, "retry_failed": options.retry_failed, "progress": progress}
    result = tokenize_videos(options.inputs, options.out, tokenizer=_tokenizer(options.tokenizer), **settings)
    if options.json:
        _print_json(result)
    else:
        print(", ".join(f"{result[name]} {name}" for name in ("done", "failed", "pending", "frames")) + f", {result['seconds']:.1f} s")
    return IN_PART if result["failed"] or result["pending"] else DONE


def _reconstruct(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.evaluate.reconstruction import reconstruct

    result = reconstruct(options.video, options.out, tokenizer=_tokenizer(options.tokenizer), fps=options.fps)
    if options.json:
        _print_json(result)
    else:
        for name, value in _plain(result).items():
            print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return DONE


def _train(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    _start_jax(options.devices)
    from ringvision.config import apply_overrides, load_config

    config, wanted = load_config(options.config), TRAINING[options.command]
    if type(config).__name__ != wanted:
        other = next(command for command, kind in TRAINING.items() if kind != wanted)
        raise UserError(f"{options.config} holds a {type(config).__name__}, expected a {wanted}; use `ringvision {other} {options.config}`")
    config = apply_overrides(config, overrides, prog=f"ringvision {options.command} {options.config}")
    if options.command == "train":
        from ringvision.train.transformer import train

        train(config)
    else:
        from ringvision.train.tokenizer import train_tokenizer

        train_tokenizer(config)
    return DONE


def _evaluate_world(options: argparse.Namespace) -> int:
    mesh = _mesh(options)
    from ringvision.evaluate.world import evaluate_world
    from ringvision.infer.assistant import load

    result = evaluate_world(load(options.model, mesh=mesh), examples=options.examples, seed=options.seed, fps=options.fps)
    if options.json:
        _print_json(result)
        return DONE
    print(f"{'kind':20} {'accuracy':>8} {'chance':>8} {'blind':>8} {'examples':>8}")
    whole = {"accuracy": result["overall"], **{name: result.get(name, math.nan) for name in ("chance", "blind", "examples")}}
    for kind, score in [*result["kinds"].items(), ("overall", whole)]:
        print(f"{kind:20} {score['accuracy']:8.1%} {score['chance']:8.1%} {score['blind']:8.1%} {score['examples']:8}")
    return DONE


def _demo(options: argparse.Namespace) -> int:
    _start_jax(options.devices)
    spec = importlib.util.spec_from_file_location("ringvision_demo", shipped.folder("demos") / "app.py")
    if spec is None or spec.loader is None:
        raise UserError("demos/app.py is not there; install ringvision again, or run from a checkout")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    app.main(options.port, options.model, open_browser=options.open)
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.doctor import describe, examine

    report = examine()
    if options.json:
        _print_json(report)
    else:
        print(describe(report))
    return IN_PART if report["problems"] else DONE


# ------------------------------------------------------------------------------------------------------------ the devices


def _start_jax(devices: int | None) -> None:
    """Set up jax before its first use: where compiled programs are kept, and on a CPU how many devices it makes of it."""
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder(jax.__version__)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if devices is None:
        return
    with contextlib.suppress(RuntimeError):  # jax has started already in this process: what it has must do
        jax.config.update("jax_num_cpu_devices", devices)
    there, kind = jax.device_count(), jax.default_backend()
    if there < devices:
        raise UserError(f"{devices} devices were asked for, but there are {there} of kind {kind} here; ask for {there} or fewer")


def _mesh(options: argparse.Namespace) -> Any:
    """The mesh of --devices and --mesh: without --devices as many as --mesh names; without --mesh all on the ring."""
    import jax

    from ringvision.mesh import make_mesh, parse_mesh

    axes = parse_mesh(options.mesh) if options.mesh else {}
    devices = options.devices
    if devices is None and axes:
        devices = math.prod(axes.values())
    _start_jax(devices)
    return make_mesh(**axes, devices=jax.devices()[:devices])


def _cache_folder(version: str) -> Path:
    """Compiled programs fit one version of jax and one kind of processor: a folder for each, under the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            kind = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        kind = platform.processor()
    return Path(home, "ringvision", f"jax-{version}-{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}")


def _devices(mesh: Any) -> str:
    size, ring = mesh.size, mesh.shape["context"]
    kind = mesh.devices.flat[0].platform
    return f"{size} {kind} device{'s' * (size != 1)}" + (f", a ring of {ring}" if ring > 1 else "")


# ---------------------------------------------------------------------------------------------------------------- words


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ringvision", description="Ask a video: it is read once, whole, by a transformer on a ring of devices.")
    parser.add_argument("--version", action="version", version=f"ringvision {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    ask = commands.add_parser("ask", help="answer a question about a video")
    ask.add_argument("videos", nargs="+", metavar="VIDEO", help="a video file; several are seen one after another")
    ask.add_argument("question", metavar="QUESTION")
    _add_model(ask)
    ask.add_argument("--fps", type=_positive, default=1.0, help="frames to look at in each second (default 1)")
    ask.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest answer (default 0)")
    ask.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens only; 0 for all")
    ask.add_argument("--top-p", type=float, default=1.0, help="draw from the fewest tokens that reach this probability")
    ask.add_argument("--seed", type=int, default=0, help="of what is drawn")
    ask.add_argument("--max-tokens", type=_count_of, default=128, metavar="N", help="the longest answer (default 128)")
    _add_json(ask)
    ask.set_defaults(carry_out=_ask)

    tokenize = commands.add_parser("tokenize", help="turn videos into codes on disk; goes on where it stopped")
    tokenize.add_argument("inputs", nargs="+", metavar="INPUT", help="video files, or folders of them")
    tokenize.add_argument("--out", required=True, metavar="DIR")
    _add_tokenizer(tokenize)
    tokenize.add_argument("--retry-failed", action="store_true", help="try those again that failed before")
    _add_json(tokenize)
    tokenize.set_defaults(carry_out=_tokenize)

    reconstruct = commands.add_parser("reconstruct", help="a video through the tokenizer and back, side by side, with PSNR and SSIM")
    reconstruct.add_argument("video", metavar="VIDEO")
    reconstruct.add_argument("out", metavar="OUT", help="the .mp4 to write")
    _add_tokenizer(reconstruct)
    _add_json(reconstruct)
    reconstruct.set_defaults(carry_out=_reconstruct)

    for name, what in (("train", "the transformer"), ("train-tokenizer", "a video tokenizer")):
        train = commands.add_parser(name, help=f"train {what}; goes on from its last checkpoint", add_help=False)
        train.epilog = f"Overrides follow the config: ringvision {name} CONFIG --lr 1e-3. All of them: ringvision {name} CONFIG --help"
        train.add_argument("config", metavar="CONFIG", help="a Python file that sets `config`, or the name of one in configs/")
        train.add_argument("--devices", type=_count_of, metavar="N", help="on a CPU, make N devices of it")
        train.add_argument("--explain", action="help", help=argparse.SUPPRESS)

    evaluate = commands.add_parser("evaluate", help="score the model").add_subparsers(
        dest="what", metavar="WHAT", required=True, parser_class=_Parser
    )
    world = evaluate.add_parser("world", help="questions about held-out scenes of the drawn world, through real files")
    _add_model(world)
    world.add_argument("--examples", type=_count_of, default=800, metavar="N", help="how many questions (default 800)")
    world.add_argument("--seed", type=int, default=0, metavar="S", help="which held-out scenes (default 0)")
    world.add_argument("--fps", type=_positive, default=1.0, help="frames to look at in each second (default 1)")
    _add_json(world)
    world.set_defaults(carry_out=_evaluate_world)

    demo = commands.add_parser("demo", help="open the web page, on this machine alone")
    demo.add_argument("--model", metavar="DIR", help="a model folder (default: the shipped one)")
    demo.add_argument("--port", type=int, default=7860)
    demo.add_argument("--open", action="store_true", help="open it in the browser")
    demo.add_argument("--devices", type=_count_of, metavar="N", help="on a CPU, make N devices of it")
    demo.set_defaults(carry_out=_demo)

    doctor = commands.add_parser("doctor", help="say what is installed, which devices there are, and what does not work")
    _add_json(doctor)
    doctor.set_defaults(carry_out=_doctor)
    return parser


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, with the nearest command for a misspelt one; no abbreviations."""

    def __init__(self, **settings: Any):
        super().__init__(**{**settings, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            given, _, choices = message.partition("invalid choice: ")[2].partition(" (choose from ")
            words = [word.strip(" '()") for word in choices.split(",")]
            close = difflib.get_close_matches(given.strip("'"), words, n=1)
            message = f"no command {given}: " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(words)}")
        raise UserError(f"{message} (see {self.prog} --help)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="a model folder (default: the shipped one)")
    parser.add_argument("--devices", type=_count_of, metavar="N", help="spread the work over N devices; a CPU is made into N of them")
    parser.add_argument("--mesh", metavar="AXES", help="which axis gets how many: context=4,data=2 (default: all on context, the ring)")


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", metavar="NAME|DIR", help="one of tokenizers/ or a folder (default: the shipped one)")
    parser.add_argument("--fps", type=_positive, default=1.0, help="frames to take of each second (default 1)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _tokenizer(name: str | None) -> Path:
    return shipped.tokenizer(name) if name else shipped.default_tokenizer()


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


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _plain(value: Any) -> Any:
    """What JSON can hold: numpy's numbers and arrays as Python's; a number that JSON lacks (NaN) as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _progress() -> Callable[[str, int, int], None] | None:
    """On a terminal, one line that is written over as frames and tokens are read; elsewhere nothing."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, of: int) -> None:
        print(f"\r\x1b[K{f'{what}: {done} of {of}' if done < of else ''}", end="", file=sys.stderr, flush=True)

    return show


def _print_json(value: Any) -> None:
    print(json.dumps(_plain(value), ensure_ascii=False), flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
