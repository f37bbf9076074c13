"""The command line: `ringvision COMMAND …` -> one call of one of the layers below.

Answers go to stdout, with `--json` as one JSON object; everything else goes to stderr. Exit status: 0 done, 1
done in part (what failed is named; `doctor`: something does not work), 2 the request was wrong (one line says
why and what to do), 130 interrupted. `COMMANDS` is the index: only the file of the command that is named is
imported, and that imports nothing heavy before it runs.
"""

import os
import pkgutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ringvision import __version__
from ringvision.errors import Interrupted, UserError

if TYPE_CHECKING:
    from ringvision.cli.parsing import Command

DONE = 0
IN_PART = 1
WRONG = 2
INTERRUPTED = 130
RESUMABLE = ("train", "train-tokenizer", "tokenize")
ABOUT = "Ask a video: it is read once, whole, by a transformer on a ring of devices."


class CommandEntry(NamedTuple):
    """A command: what it does, and where its dataclass is (MODULE:CLASS). Or several behind one word."""

    summary: str
    where: str = ""
    commands: Mapping[str, "CommandEntry"] = {}


COMMANDS = {
    "ask": CommandEntry("answer a question about a video", "ask:Ask"),
    "chat": CommandEntry("hold a conversation with a text model, such as an imported one", "chat:StartChat"),
    "generate": CommandEntry("generate frames: a picture, or a video", "generate:Generate"),
    "import": CommandEntry("other projects' weights -> a model or tokenizer folder", "weights:Import"),
    "export": CommandEntry(
        "write a model or video tokenizer for transformers or diffusers, or for LWM", "weights:Export"
    ),
    "tokenize": CommandEntry("turn videos into codes on disk; goes on where it stopped", "tokenize:Tokenize"),
    "tokens": CommandEntry(
        "look at codes on disk",
        commands={
            "inspect": CommandEntry(
                "counts, lengths, which codes are used, and a sheet of pictures", "tokenize:InspectTokens"
            )
        },
    ),
    "data": CommandEntry(
        "look at what a run will read",
        commands={
            "inspect": CommandEntry(
                "shares of the sources, lengths, packing, what counts in the loss, and some documents",
                "data:InspectData",
            )
        },
    ),
    "reconstruct": CommandEntry(
        "a video through the tokenizer and back, side by side, with PSNR and SSIM", "evaluate:Reconstruct"
    ),
    "train": CommandEntry("train the transformer; goes on from its last checkpoint", "train:Train"),
    "train-tokenizer": CommandEntry(
        "train a video tokenizer; goes on from its last checkpoint", "train:TrainTokenizer"
    ),
    "watch": CommandEntry(
        "how far a training run is: its curves in the terminal or as a picture, where its time went",
        "watch:Watch",
    ),
    "evaluate": CommandEntry(
        "score the model, or a tokenizer",
        commands={
            "world": CommandEntry(
                "questions about held-out scenes of the synthetic world, short or long, through real files",
                "evaluate:EvaluateWorld",
            ),
            "needle": CommandEntry(
                "what is found in long videos, or texts: a card of one second, by length and depth",
                "evaluate:EvaluateNeedle",
            ),
            "qa": CommandEntry(
                "questions of public video benchmarks, on files that you have: MSVD-QA, Video-MME, …",
                "evaluate_qa:EvaluateQa",
            ),
            "perplexity": CommandEntry(
                "how well each next token is predicted, by its position, of texts or tokenized videos",
                "evaluate_text:EvaluatePerplexity",
            ),
            "ruler": CommandEntry(
                "RULER's tasks, by length: how long a text a text model still uses",
                "evaluate_text:EvaluateRuler",
            ),
            "tokenizer": CommandEntry(
                "how well a tokenizer keeps videos: PSNR, SSIM, flicker, which codes are used",
                "evaluate:EvaluateTokenizer",
            ),
        },
    ),
    "demo": CommandEntry("open the web page, on this machine alone", "demo:Demo"),
    "doctor": CommandEntry(
        "say what is installed, which devices there are, and what does not work", "doctor:Doctor"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; -> the exit status. Mistakes of the user's become one line on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        _complain(" ".join(str(error).split()))
        return WRONG
    except MemoryError:
        _complain("memory ran out; take fewer frames (--fps), a shorter video, or a machine with more memory")
        return WRONG
    except Interrupted as stopped:
        _complain(str(stopped))
        return INTERRUPTED
    except KeyboardInterrupt:
        resumable = args[:1] and args[0] in RESUMABLE
        _complain(
            "interrupted" + ("; the same command goes on from the last thing it saved" if resumable else "")
        )
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone: nothing is left to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return IN_PART


def _run(args: Sequence[str]) -> int:
    return read(args).run()


def read(args: Sequence[str]) -> "Command":
    """The command that the words describe, its options read.

    Raises:
        UserError: for a command or an option that there is not, or a value that an option does not take.
        SystemExit: when --help or --version has been printed.
    """
    prog = "ringvision"
    entries: Mapping[str, CommandEntry] = COMMANDS
    about = ABOUT
    rest = list(args)
    while True:
        word = rest.pop(0) if rest else ""
        if word in ("-h", "--help"):
            _print_help(prog, about, entries)
        if word == "--version" and entries is COMMANDS:
            print(f"ringvision {__version__}")
            raise SystemExit(DONE)
        entry = _find(word, entries, prog)
        prog = f"{prog} {word}"
        if not entry.commands:
            from ringvision.cli.parsing import read_command

            kind = pkgutil.resolve_name(f"ringvision.cli.{entry.where}")
            return read_command(kind, rest, prog=prog, summary=entry.summary)
        entries = entry.commands
        about = entry.summary


def _find(word: str, entries: Mapping[str, CommandEntry], prog: str) -> CommandEntry:
    if word in entries:
        return entries[word]
    from ringvision.options import closest

    if not word:
        what = "COMMAND" if entries is COMMANDS else "WHAT"
        raise UserError(f"the following arguments are required: {what} (see {prog} --help)")
    if word.startswith("-"):
        raise UserError(f"a command comes first, not {word!r} (see {prog} --help)")
    hint = closest(word, list(entries)) or f"there are {', '.join(entries)}"
    raise UserError(f"no command {word!r}: {hint} (see {prog} --help)")


def _print_help(prog: str, about: str, entries: Mapping[str, CommandEntry]) -> None:
    """The commands behind `prog`; each command's own --help is tyro's."""
    print(f"usage: {prog} [-h]{' [--version]' * (entries is COMMANDS)} COMMAND ...\n\n{about}\n\ncommands:")
    for name, entry in entries.items():
        lines = textwrap.wrap(entry.summary, 60)
        print(f"  {name:16} {lines[0]}", *(f"{'':18} {line}" for line in lines[1:]), sep="\n")
    print(f"\nThe options of a command: {prog} COMMAND --help")
    raise SystemExit(DONE)


def _complain(line: str) -> None:
    print(f"ringvision: {line}", file=sys.stderr, flush=True)
