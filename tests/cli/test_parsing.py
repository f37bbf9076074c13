"""The commands as dataclasses: help, defaults, words in any order, and what a wrong option is told."""

import dataclasses
import pkgutil
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from tyro.conf import Positional

from ringvision import __version__, cli
from ringvision.cli.ask import Ask
from ringvision.cli.devices import MeshOptions
from ringvision.cli.generate import Generate
from ringvision.cli.options import LimitOptions, SamplerOptions
from ringvision.cli.parsing import REST, Command, Options, ValueType
from ringvision.cli.tokenize import Tokenize
from ringvision.cli.train import Train, TrainTokenizer
from ringvision.cli.weights import Import
from ringvision.errors import UserError
from ringvision.options import closest


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words and the dataclass of every command."""
    for name, entry in cli.COMMANDS.items():
        for inner, nested in entry.commands.items() or [("", entry)]:
            words = (name, inner) if inner else (name,)
            yield words, pkgutil.resolve_name(f"ringvision.cli.{nested.where}")


COMMANDS = dict(commands())


def fields(kind: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, tuple[Any, ...]]]:
    """Every field of a command and of its groups: the field, its type, and what else is said of it."""
    for field in dataclasses.fields(kind):
        annotated, *said = typing.get_args(field.type)
        if dataclasses.is_dataclass(annotated):
            yield from fields(annotated)
        else:
            yield field, annotated, tuple(said)


def option_names(kind: Any) -> list[str]:
    return [f"--{field.name.replace('_', '-')}" for field, _, said in fields(kind) if Positional not in said]


def needed(kind: Any) -> list[str]:
    """The fewest words that the command takes."""
    words = []
    for field, _, said in fields(kind):
        if field.default is not dataclasses.MISSING:
            continue
        value = next((part.choices_shown[0] for part in said if isinstance(part, ValueType)), "a")
        words += [value] if Positional in said else [f"--{field.name.replace('_', '-')}", value]
    return words


def takes_rest(kind: type[Command]) -> bool:
    """Whether options that it does not know are those of a config."""
    return any(REST in said for _, _, said in fields(kind))


def is_frozen(kind: Any) -> bool:
    return bool(kind.__dataclass_params__.frozen)


def test_every_command_is_here():
    assert [" ".join(words) for words in COMMANDS] == [
        *("ask", "chat", "generate", "import", "export", "tokenize", "tokens inspect", "data inspect"),
        *(
            "reconstruct",
            "train",
            "train-tokenizer",
            "watch",
            "evaluate world",
            "evaluate needle",
            "evaluate qa",
            "evaluate perplexity",
            "evaluate ruler",
            "evaluate tokenizer",
            "demo",
            "doctor",
        ),
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_a_frozen_dataclass_of_explained_options(words, capsys):
    kind = COMMANDS[words]
    assert issubclass(kind, Command)
    assert is_frozen(kind)
    for _, _, said in fields(kind):
        (explained,) = [part for part in said if getattr(part, "help", None)]
        assert explained.help

    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    assert not caught.value.code
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ringvision {' '.join(words)} ")
    for name in option_names(kind):
        assert re.search(rf"^[│ ]*{name}\b(?!-)", shown, re.MULTILINE), name
    with pytest.raises(SystemExit):
        cli.main([*words, "-h"])
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("kind", [MeshOptions, SamplerOptions, LimitOptions])
def test_a_group_is_a_frozen_dataclass(kind):
    assert issubclass(kind, Options)
    assert is_frozen(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 1)


def test_a_command_stays_as_it_was_read():
    command = cli.read(["ask", "a.mp4", "why?"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        command.fps = 2.0  # type: ignore[attr-defined]


def test_the_index_lists_every_command(capsys):
    for words, entries in (((), cli.COMMANDS), (("evaluate",), cli.COMMANDS["evaluate"].commands)):
        with pytest.raises(SystemExit) as caught:
            cli.main([*words, "-h"])
        assert not caught.value.code
        shown = capsys.readouterr().out
        for name, entry in entries.items():
            assert f"\n  {name} " in shown
            assert entry.summary in " ".join(shown.split())
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"ringvision {__version__}\n"


@pytest.mark.parametrize("words", [w for w, kind in COMMANDS.items() if not takes_rest(kind)], ids=" ".join)
def test_a_misspelt_option_is_answered_with_the_nearest(words, capsys):
    kind = COMMANDS[words]
    known = option_names(kind)
    for name in known:
        for misspelt in (name + "z", name[:-1]):  # the second shows that nothing is abbreviated
            if misspelt in known:  # --mode is not a misspelt --model where there are both
                continue
            assert cli.main([*words, *needed(kind), misspelt]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            hint = closest(misspelt, [*known, "--help"])
            assert hint
            assert err == f"ringvision: {' '.join(words)} takes no {misspelt}: {hint}\n"
    assert cli.main([*words, *needed(kind), known[0] + "z"]) == 2
    assert f"did you mean {known[0]}?" in capsys.readouterr().err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_value_of_another_type_is_one_line(words, capsys):
    kind = COMMANDS[words]
    typed = [field.name for field, _, said in fields(kind) if any(isinstance(p, ValueType) for p in said)]
    for name in typed:
        option = f"--{name.replace('_', '-')}"
        for given in ("x-y", "", "None"):
            assert cli.main([*words, *needed(kind), f"{option}={given}"]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.count("\n") == 1
            assert option in err
            assert repr(given) in err
            assert f"(see ringvision {' '.join(words)} --help)" in err


@pytest.mark.parametrize("words", [words for words, kind in COMMANDS.items() if needed(kind)], ids=" ".join)
def test_what_is_missing_is_named(words, capsys):
    missing = needed(COMMANDS[words])
    if takes_rest(COMMANDS[words]):  # without anything, these explain themselves
        words = (*words, *(("--json",) if words[0] == "data" else ("--devices", "2")))
    assert cli.main(list(words)) == 2
    err = capsys.readouterr().err
    assert "the following arguments are required: " in err
    assert all(word in err for word in missing if word.startswith("--"))


@pytest.mark.parametrize(
    "args",
    [
        ["--fps", "2", "a.mp4", "b.mp4", "why?", "--devices", "4", "--json"],
        ["a.mp4", "b.mp4", "why?", "--fps=2", "--devices=4", "--json"],
        ["a.mp4", "--fps", "2", "b.mp4", "--json", "why?", "--devices", "4"],
        ["--json", "--devices", "3", "--devices", "4", "--fps", "2", "--", "a.mp4", "b.mp4", "why?"],
    ],
)
def test_options_may_stand_anywhere(args):
    command = cli.read(["ask", *args])
    assert command == Ask(
        videos=("a.mp4", "b.mp4"), question="why?", fps=2.0, json=True, mesh=MeshOptions(devices=4)
    )


@pytest.mark.parametrize("question", ["-5", "-", "-- what is this?", "-why not?", "None"])
def test_a_question_may_begin_with_a_dash(question):
    command = cli.read(["ask", "a.mp4", question, "--fps", "2"])
    assert command == Ask(videos=("a.mp4",), question=question, fps=2.0)
    assert cli.read(["ask", "--", "a.mp4", "--json"]) == Ask(videos=("a.mp4",), question="--json")


def test_values_are_of_their_types():
    assert cli.read(["generate", "--out", "x.png"]) == Generate(
        out="x.png", sampler=SamplerOptions(temperature=1.0)
    )
    command = cli.read(["generate", "a dog", "--out", "x.mp4", "--frames", "8", "--temperature", "-.5"])
    assert command == Generate(
        prompt="a dog", out="x.mp4", frames=8, sampler=SamplerOptions(temperature=-0.5)
    )
    assert type(command.frames) is int  # type: ignore[attr-defined]

    words = [
        "tokenize",
        "a",
        "b",
        "--out",
        "codes",
        "--shard",
        "2/3",
        "--max-duration",
        "1.5",
        "--memory",
        "7",
    ]
    assert cli.read(words) == Tokenize(
        inputs=("a", "b"), out="codes", shard="2/3", limits=LimitOptions(max_duration=1.5, memory=7)
    )
    assert cli.read(["import", "a", "b", "--dry-run", "--seed", "-3", "--dtype", "float16"]) == Import(
        source="a", dest="b", dry_run=True, seed=-3, dtype="float16"
    )


def test_train_leaves_the_options_of_the_config_to_it(capsys):
    words = [
        "demo",
        "--lr",
        "1e-3",
        "--devices",
        "2",
        "--favour",
        "a",
        "b",
        "--seed=-5",
        "--model.num-layers",
    ]
    command = cli.read(["train", *words, "4", "--help"])
    assert command == Train(
        config="demo",
        overrides=(
            *("--lr", "1e-3", "--favour", "a", "b", "--seed=-5", "--model.num-layers", "4", "--help"),
        ),
        devices=2,
    )
    assert isinstance(cli.read(["train-tokenizer", "demo"]), TrainTokenizer)
    with pytest.raises(SystemExit):
        cli.main(["train"])
    assert capsys.readouterr().out.startswith("usage: ringvision train ")


def test_the_constructor_refuses_what_the_command_line_refuses():
    with pytest.raises(UserError, match=r"argument --fps: '-1' was given, expected a number above 0"):
        Ask(videos=("a.mp4",), question="why?", fps=-1)
    with pytest.raises(UserError, match=r"--dtype is 'float23': did you mean float32\?"):
        MeshOptions(dtype="float23")
    with pytest.raises(UserError, match="argument --memory: '0' was given"):
        LimitOptions(memory=0)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--json", "ask", "a.mp4", "why?"], "a command comes first, not '--json'"),
        (["evaluate"], "required: WHAT (see ringvision evaluate --help)"),
        (["ask", "a.mp4", "why?", "--json=1"], "argument --json: it takes no value"),
        (["ask", "a.mp4", "why?", "--fps", "--json"], "argument --fps: expected one argument"),
        (["ask", "a.mp4", "why?", "--max_tokens", "3"], "did you mean --max-tokens?"),
        (["ask", "a.mp4", "why?", "--tyro-print-completion", "bash"], "ask takes no --tyro-print-completion"),
        (["evaluate", "tokenizer", "--videos"], "argument --videos: expected at least one argument"),
        (["import", "a", "b", "c"], "import takes no c: see ringvision import --help"),
        (["evaluate", "world", "x"], "evaluate world takes no x: see ringvision evaluate world --help"),
        (["tokenize", "a", "--uot", "x"], "did you mean --out?"),
        (["train", "--devices", "2"], "required: CONFIG"),
    ],
)
def test_a_wrong_request_names_what_is_wrong(args, says, capsys):
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ringvision: ")
    assert err.count("\n") == 1
    assert says in err
