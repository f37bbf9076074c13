"""Configs check themselves; files of configs/ hold one each; overrides are typed, checked and hinted at."""

import dataclasses
from pathlib import Path

import pytest

from ringvision.config import TokenizerTrainConfig, TrainConfig, apply_overrides, load_config
from ringvision.errors import UserError
from ringvision.models.presets import PRESETS
from ringvision.models.vqgan import VQGANConfig

TRAIN = TrainConfig(
    name="trial",
    out="out",
    model=PRESETS["tiny"],
    data="shards",
    text_model="text.model",
    tokenizer="small",
    length=128,
    rows=2,
    steps=1000,
)
TOKENIZER = TokenizerTrainConfig(name="small", out="out", vqgan=VQGANConfig(), data="frames.npy", steps=1000)


@pytest.mark.parametrize("config", [TRAIN, TOKENIZER])
def test_configs_are_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"rows": 0, "steps": -1, "b1": 1.0}, "rows is 0, expected at least 1; steps is -1"),
        ({"min_lr": 1.0}, "min_lr is 1.0, expected at most lr"),
        ({"warmup_steps": 1001}, "expected at most steps, which is 1000"),
        ({"length": 10**9}, "max_length"),
        ({"data": ""}, "data is ''"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"optimizer": "adam"}, "optimizer is 'adam', expected adamw or muon"),
        ({"muon_lr": 0.0}, "muon_lr is 0.0"),
        ({"mesh": "context=x"}, "context=x"),
        ({"mesh": "contxt=2"}, "contxt"),
    ],
)
def test_what_is_wrong_with_a_training_config_is_said(changes, says):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(TRAIN, **changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"adversarial_start": -1},
        {"lr": -1.0},
        {"warmup_steps": 2000},
        {"name": ""},
        {"seed": -1},
    ],
)
def test_what_is_wrong_with_a_tokenizer_config_is_said(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        dataclasses.replace(TOKENIZER, **changes)


def test_overrides_are_typed_and_reach_nested_fields():
    changed = apply_overrides(
        TRAIN,
        ["--lr", "2e-3", "--model.num-layers=3", "--model.tie_embeddings", "True", "--init-from", "folder"],
    )
    assert changed == dataclasses.replace(
        TRAIN,
        lr=2e-3,
        init_from="folder",
        model=dataclasses.replace(TRAIN.model, num_layers=3, tie_embeddings=True),
    )
    assert apply_overrides(TRAIN, []) == TRAIN
    assert apply_overrides(changed, ["--init-from", "None"]).init_from is None
    assert apply_overrides(TOKENIZER, ["--vqgan.channel-mults", "1", "2"]).vqgan.channel_mults == (1, 2)
    assert apply_overrides(TRAIN, ["--favour", "after", "time"]).favour == ("after", "time")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--warmup-step", "3"], "did you mean --warmup-steps?"),
        (["--num-layers", "3"], "did you mean --model.num-layers?"),
        (["--zzz", "3"], "see --help"),
        (["--lr", "fast"], "--lr: could not convert string to float: 'fast'"),
        (["--rows", "2.5"], "--rows"),
        (["--rows"], "--rows"),
        (["lr=3"], "lr=3"),
        (["--model.remat", "blok"], "blok"),
        (["--model.num-heads", "7"], "num_heads=7"),
        (["--rows", "0"], "rows is 0"),
    ],
)
def test_a_wrong_override_is_one_clear_line(args, says):
    with pytest.raises(UserError) as caught:
        apply_overrides(TRAIN, args)
    assert says in str(caught.value)
    assert not set(str(caught.value)) & set("╭│╰\n")


def test_help_lists_the_options_and_exits_in_peace(capsys):
    with pytest.raises(SystemExit) as caught:
        apply_overrides(TRAIN, ["--help"])
    assert not caught.value.code
    assert "--model.num-layers" in capsys.readouterr().out


def test_a_config_file_is_run_and_its_config_taken(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ringvision.config import TokenizerTrainConfig\nfrom ringvision.models.vqgan "
        "import VQGANConfig\n"
        "config = TokenizerTrainConfig(name='a', out='b', vqgan=VQGANConfig(), data='c', steps=500)\n"
    )
    assert load_config(str(path)).steps == 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "sets no `config`"),
        ("config = 3", "sets no `config`"),
        ("config = (", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("from ringvision.errors import UserError\nraise UserError('rows is 0')", "rows is 0"),
    ],
)
def test_a_config_file_that_does_not_work_is_one_clear_error(tmp_path, text, says):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(path))
    assert says in str(caught.value)


def test_a_config_that_is_not_there_is_named(monkeypatch, tmp_path):
    (tmp_path / "demo_model.py").touch()
    monkeypatch.setattr("ringvision.shipped.folder", lambda name: tmp_path)
    with pytest.raises(UserError, match="did you mean demo_model"):
        load_config("demo_modl")
    with pytest.raises(UserError, match="shipped are demo_model"):
        load_config("xyz")


def test_every_shipped_config_loads():
    for path in Path(__file__).parents[1].glob("configs/*.py"):
        assert load_config(str(path)) == load_config(path.stem)
