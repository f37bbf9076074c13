"""Configs check themselves; files of configs/ hold one each; overrides are typed, checked and hinted at."""

import dataclasses
import json
from pathlib import Path

import pytest

from ringvision import shipped
from ringvision.config import (
    RENAMED,
    MeshConfig,
    TokenizerTrainConfig,
    TrainConfig,
    apply_overrides,
    load_config,
)
from ringvision.data.sources import DataConfig, TokenizedData, WorldData
from ringvision.errors import UserError
from ringvision.models.presets import PRESETS
from ringvision.models.vqgan import VQGANConfig
from ringvision.options import option_names

TRAIN = TrainConfig(
    name="trial",
    out="out",
    model=PRESETS["tiny"],
    data=DataConfig((WorldData("codes"),), 128, 2, text_model="text.model", tokenizer="small"),
    steps=1000,
)
TOKENIZER = TokenizerTrainConfig(name="small", out="out", vqgan=VQGANConfig(), data="frames.npy", steps=1000)


@pytest.mark.parametrize("config", [TRAIN, TOKENIZER])
def test_configs_are_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 1


def with_source(**changes):
    """TRAIN with these fields of its source."""
    source = dataclasses.replace(TRAIN.data.sources[0], **changes)
    return dataclasses.replace(TRAIN, data=dataclasses.replace(TRAIN.data, sources=(source,)))


def changed(config, changes):
    """The config with these fields; a dict for a part changes fields of that part."""
    whole = {
        name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **whole)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"lr": 0.0}}, "optimizer.lr is 0.0"),
        (
            {"steps": -1, "data": {"rows": 0}, "optimizer": {"b1": 1.0}, "lora": {"rank": 0}},
            "steps is -1, expected at least 1; data.rows is 0, expected at least 1; "
            "optimizer.b1 is 1.0, expected from 0 to below 1; lora.rank is 0",
        ),
        ({"optimizer": {"min_lr": 1.0}}, "optimizer.min_lr is 1.0, expected at most lr"),
        ({"optimizer": {"warmup_steps": 1001}}, "expected at most steps, which is 1000"),
        ({"data": {"length": 10**9}}, "data.length is 1000000000, expected at most the model's max_length"),
        ({"data": {"sources": ()}}, "data.sources is empty"),
        ({"data": WorldData("a")}, "data is a WorldData, expected DataConfig(sources="),
        ({"data": {"sources": WorldData("a")}}, "data.sources holds WorldData, expected a tuple of sources"),
        ({"data": {"sources": ("a",)}}, "data.sources holds str, expected a tuple of sources"),
        ({"data": {"weights_by": "rows"}}, "data.weights_by is 'rows', expected tokens or examples"),
        ({"data": {"bad_records": 2.0}}, "data.bad_records is 2.0, expected a share from 0 to 1"),
        ({"data": {"workers": -1}}, "data.workers is -1"),
        ({"data": {"text_model": None}}, "data.text_model and init_from are none"),
        (
            {"data": {"sources": (WorldData("a", weight=0), TokenizedData("b", weight=0))}},
            "data.the weights of the sources are 0, 0, expected at least one above 0",
        ),
        (
            {"data": {"sources": (WorldData("a"), TokenizedData("", weight=-1))}},
            "data.sources.1.weight is -1, expected a number of at least 0; data.sources.1.folder is ''",
        ),
        ({"optimizer": {"clip_norm": 0.0}}, "optimizer.clip_norm"),
        ({"optimizer": {"kind": "adam"}}, "optimizer.kind is 'adam', expected adamw or muon"),
        ({"optimizer": {"muon_lr": 0.0}}, "optimizer.muon_lr is 0.0"),
        ({"mesh": {"context": 0}}, "mesh.context is 0"),
        ({"checkpoints": {"every": 0}}, "checkpoints.every is 0"),
        ({"evaluation": {"examples": 0}}, "evaluation.examples is 0"),
    ],
)
def test_what_is_wrong_with_a_training_config_is_said(changes, says):
    with pytest.raises(UserError) as caught:
        changed(TRAIN, changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folder": ""}, "data.sources.0.folder is ''"),
        (
            {"turns_min": 3, "turns_max": 2},
            "data.sources.0.turns_max is 2, expected at least turns_min: 3",
        ),
        ({"grow_steps": -1}, "data.sources.0.grow_steps is -1"),
        ({"weight": -1.0}, "data.sources.0.weight is -1.0"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_under_its_number(changes, says):
    with pytest.raises(UserError) as caught:
        with_source(**changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 0}, "batch"),
        ({"loss": {"adversarial_start": -1}}, "loss.adversarial_start"),
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr"),
        ({"optimizer": {"warmup_steps": 2000}}, "optimizer.warmup_steps"),
        ({"name": ""}, "name"),
        ({"seed": -1}, "seed"),
        ({"checkpoints": {"every": 0}}, "checkpoints.every"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_config_is_said(changes, says):
    with pytest.raises(UserError, match=says):
        changed(TOKENIZER, changes)


def test_a_config_as_settings_says_of_which_kind_its_data_is():
    settings = TRAIN.to_dict()
    assert settings["data"]["rows"] == 2
    assert [source["kind"] for source in settings["data"]["sources"]] == ["WorldData"]
    assert settings["optimizer"]["lr"] == TRAIN.optimizer.lr


def test_overrides_are_typed_and_reach_nested_fields():
    args = ["--optimizer.lr", "2e-3", "--model.num-layers=3", "--model.tie_embeddings", "True"]
    wider = apply_overrides(TRAIN, [*args, "--init-from", "folder"])
    assert wider == changed(
        TRAIN,
        {
            "optimizer": {"lr": 2e-3},
            "init_from": "folder",
            "model": {"num_layers": 3, "tie_embeddings": True},
        },
    )
    assert apply_overrides(TRAIN, []) == TRAIN
    assert apply_overrides(wider, ["--init-from", "None"]).init_from is None
    assert apply_overrides(TOKENIZER, ["--vqgan.channel-mults", "1", "2"]).vqgan.channel_mults == (1, 2)
    favoured = apply_overrides(TRAIN, ["--data.sources.0.favour", "after", "time"])
    assert favoured == with_source(favour=("after", "time"))
    grown = apply_overrides(TRAIN, ["--data.sources.0.grow-from", "3", "--data.sources.0.weight", "2"])
    assert grown == with_source(grow_from=3, weight=2.0)


def test_sources_of_several_kinds_keep_their_kinds():
    mixture = (WorldData("a", grow_from=2), TokenizedData("b", caption_question="What is it?"))
    config = changed(TRAIN, {"data": {"sources": mixture}})
    other = apply_overrides(config, ["--data.sources.1.folder", "c", "--data.sources.0.turns-max", "3"])
    assert other.data.sources == (
        WorldData("a", grow_from=2, turns_max=3),
        TokenizedData("c", caption_question="What is it?"),
    )
    assert [source["kind"] for source in other.to_dict()["data"]["sources"]] == ["WorldData", "TokenizedData"]


def test_data_and_mesh_have_short_forms():
    for args in (["--data", "tokens"], ["--data=tokens"], ["--data.sources.0.folder", "tokens"]):
        assert apply_overrides(TRAIN, args) == with_source(folder="tokens")
    mixture = changed(TRAIN, {"data": {"sources": (TokenizedData("a"), WorldData("b"))}})
    other = apply_overrides(mixture, ["--data", "c", "--steps", "9999"])
    assert (other.data.sources, other.steps) == ((TokenizedData("c"), WorldData("b")), 9999)
    on_four = dataclasses.replace(TRAIN, mesh=MeshConfig(data=4))
    assert apply_overrides(on_four, ["--mesh", "context=2,fsdp=2"]).mesh == MeshConfig(context=2, fsdp=2)
    assert apply_overrides(on_four, ["--mesh=tensor=2"]).mesh == MeshConfig(tensor=2)
    assert apply_overrides(on_four, ["--mesh.context", "2"]).mesh == MeshConfig(data=4, context=2)


@pytest.mark.parametrize("config", [TRAIN, TOKENIZER])
def test_options_of_flat_configs_are_answered_with_their_new_names(config):
    """Every one of them, and every new name is an option."""
    names = option_names(config)
    if config is TRAIN:  # the source of old configs was of one kind or the other
        names += option_names(changed(TRAIN, {"data": {"sources": (TokenizedData("a"),)}}))
    for old, new in RENAMED[type(config).__name__].items():
        assert new in names
        with pytest.raises(UserError, match=f"no option --{old}: it is called --{new} now"):
            apply_overrides(config, [f"--{old}", "1"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--optimizer.warmup-step", "3"], "did you mean --optimizer.warmup-steps?"),
        (["--num-layers", "3"], "did you mean --model.num-layers?"),
        (["--zzz", "3"], "see --help"),
        (["--optimizer.lr", "fast"], "--optimizer.lr: could not convert string to float: 'fast'"),
        (["--data.rows", "2.5"], "--data.rows"),
        (["--data.rows"], "--data.rows"),
        (["--data"], "--data is given nothing"),
        (["--mesh", "contxt=2"], "did you mean context?"),
        (["--mesh", "context=x"], "context=x"),
        (["lr=3"], "lr=3"),
        (["--model.remat", "blok"], "blok"),
        (["--model.num-heads", "7"], "num_heads=7"),
        (["--data.rows", "0"], "data.rows is 0"),
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


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped.folder("configs").glob("*.py")))
def test_what_a_run_notes_of_its_config_is_the_config(name):
    config = load_config(name)
    if isinstance(config, TrainConfig):
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
