"""A folder of weights whose other files are made to do harm: one clear error before anything is written, and
nothing left behind.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ringvision.cli import main
from ringvision.errors import UserError
from ringvision.infer.chat import load_stops
from ringvision.infer.model import load_model
from ringvision.models.transformer import TransformerConfig
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.weights.atomic_folder import atomic_folder
from ringvision.weights.importing import import_weights
from ringvision.weights.source import find_source, read_settings

FIXTURE = Path(__file__).parents[1] / "fixtures" / "hf_llama" / "tied"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder, beside which `dest` may come."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "model", ignore=shutil.ignore_patterns("*.npz")))


def refused(folder: Path) -> None:
    """The command line ends with status 2 and leaves what was there."""
    before = sorted(folder.parent.rglob("*"))
    began = time.monotonic()
    assert main(["import", str(folder), str(folder.parent / "dest")]) == 2
    assert sorted(folder.parent.rglob("*")) == before
    assert time.monotonic() - began < 5


SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
VALUES: tuple[Any, ...] = (10**12, 2**31 - 1, 0, -1, True, "8", 8.5, [1], {"a": 1}, 10**400)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_cannot_be_is_one_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((FIXTURE / "config.json").read_text())
    for value in VALUES:
        (folder / "config.json").write_text(json.dumps(settings | {name: value}))
        refused(folder)
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("ringvision: ")] == lines[-1:]
        assert name in lines[-1] or "expected" in lines[-1] or "too large" in lines[-1]


@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta", "rope_parameters"])
@pytest.mark.parametrize(
    "digits", ["1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "0", '"x"', "[[]]"]
)
def test_a_number_that_cannot_be_is_one_line(name: str, digits: str, folder: Path) -> None:
    settings = json.loads((FIXTURE / "config.json").read_text())
    settings.pop("rope_parameters" if name == "rope_theta" else name, None)
    value = (
        f'{{"rope_type": "linear", "rope_theta": 1, "factor": {digits}}}'
        if name == "rope_parameters"
        else digits
    )
    (folder / "config.json").write_text(json.dumps(settings)[:-1] + f', "{name}": {value}}}')
    refused(folder)


def link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


@pytest.mark.parametrize(
    "make",
    [link("/dev/zero"), link("/etc/passwd"), link("config.json"), link("absent"), os.mkfifo, Path.mkdir],
    ids=["device", "text", "itself", "nothing", "pipe", "folder"],
)
def test_a_config_that_is_no_file_of_settings_is_one_line(make: Callable[[Path], Any], folder: Path) -> None:
    (folder / "config.json").unlink()
    make(folder / "config.json")
    refused(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_text_tokenizer_that_is_made_to_fill_memory_is_left_out(
    name: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.model").write_bytes(b"\n\xff\xff\xff\xff\x0f")
    (folder / name).touch()
    os.truncate(folder / name, 3 << 30)
    said: list[str] = []
    import_weights(folder, tmp_path / "dest", say=said.append)
    assert "without a text tokenizer" in said[-1]
    assert not [path for path in (tmp_path / "dest").iterdir() if "tokenizer" in path.name]


def test_a_tokenizer_may_be_larger_than_a_config(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text(json.dumps({"model": "x" * (17 << 20)}))
    assert len(read_settings(tmp_path / "tokenizer.json")["model"]) == 17 << 20
    with pytest.raises(UserError, match="expected at most 16777216"):
        read_settings(tmp_path / "config.json")


def test_a_place_that_cannot_be_written_to_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for dest in (
        tmp_path / "file" / "dest",
        tmp_path / "link",
        tmp_path / ("d" * 300),
        Path("/proc/dest"),
        Path("/dev/full"),
        Path(),
    ):
        with pytest.raises(UserError, match="there already|cannot be (made|written)"):
            import_weights(folder, dest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "model"]


def test_what_a_killed_import_left_goes_whatever_the_folder_is_called(tmp_path: Path) -> None:
    left = tmp_path / ".a[b]*.making-999999999"
    others = tmp_path / ".ab.making-999999999"
    left.mkdir()
    others.mkdir()
    with atomic_folder(tmp_path / "a[b]*") as partial:
        (partial / "part").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, "a[b]*"]


@pytest.mark.parametrize("said", ["x" * 1000, "\x1b[2J", ["mit"]])
def test_a_licence_that_is_no_name_is_none(said: Any, folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    for license, expected in ((said, None), ("mit", "mit")):
        (folder / "config.json").write_text(json.dumps(settings | {"license": license}))
        assert find_source(str(folder)).licence == expected


def test_a_full_disk_is_one_line_and_another_error_stays_what_it_is(tmp_path: Path) -> None:
    for error, kind in (
        (OSError(28, "No space left on device"), UserError),
        (OSError("not the system's"), OSError),
        (ValueError(), ValueError),
    ):
        with pytest.raises(kind), atomic_folder(tmp_path / "dest") as partial:
            (partial / "part").write_text("x")
            raise error
        assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder of ours."""
    folder = tmp_path_factory.mktemp("own") / "model"
    import_weights(FIXTURE, folder)
    return folder


@pytest.mark.parametrize("name", [field.name for field in fields(TransformerConfig)])
def test_a_model_folder_with_a_setting_that_cannot_be_is_one_line(
    name: str, own: Path, tmp_path: Path
) -> None:
    settings = json.loads((own / "config.json").read_text())
    shutil.copytree(own, tmp_path / "model")
    for value in (
        10**400,
        "8",
        [1],
        {"a": 1},
        *(() if name in ("rope_theta", "norm_eps") else (10**12, 8.5)),
    ):
        changed = settings | {"transformer": settings["transformer"] | {name: value}}
        (tmp_path / "model" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError):
            load_model(tmp_path / "model")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"eos_token_id": 1e400}',
        b'{"eos_token_id": "x"}',
        b'{"eos_token_id": [true]}',
        b"[]",
    ],
)
def test_stops_that_cannot_be_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        load_stops(tmp_path)


def test_a_licence_that_is_a_link_to_what_is_private_is_not_copied(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").symlink_to(tmp_path / "private")
    (folder / "LICENSE.txt").write_text("MIT")
    (folder / "LICENSE.large").touch()
    os.truncate(folder / "LICENSE.large", 1 << 30)
    import_weights(folder, tmp_path / "dest")
    assert [path.name for path in (tmp_path / "dest").glob("LICENSE*")] == ["LICENSE.txt"]


def test_a_file_of_more_bytes_than_the_disk_has_is_refused_unread(folder: Path, tmp_path: Path) -> None:
    """It takes no room itself: it has a hole where its numbers would be."""
    settings = json.loads((folder / "config.json").read_text()) | {"vocab_size": 2**31 - 1}
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = {}
    end = 0
    for name, array in load_file(folder / "model.safetensors").items():
        shape = (2**31 - 1, *array.shape[1:]) if "embed_tokens" in name else array.shape
        size = 4 * math.prod(shape)
        tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end = end + size
    header = json.dumps(tensors).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    refused(folder)


def test_an_index_of_ours_that_is_made_to_do_harm_is_one_line(own: Path, tmp_path: Path) -> None:
    shutil.copytree(own, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    for content in (
        b"[" * 100_000,
        b'{"weight_map": {"w": "../model.safetensors"}}',
        b'{"weight_map": {"w": [1]}}',
        b"null",
    ):
        (tmp_path / "model" / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(UserError, match=r"index\.json"):
            load_model(tmp_path / "model")


def test_more_heads_than_channels_are_one_line(tmp_path: Path) -> None:
    folder = FIXTURE.parents[1] / "lwm_llama_text"
    settings = json.loads((folder / "config.json").read_text()) | {"num_attention_heads": 2**31 - 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="heads"):
        import_weights(folder / "streaming_params", tmp_path / "dest", config=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("name", "value"), [("num_res_blocks", 2**31 - 1), ("channel_mults", [1] * 1000), ("channels", 2**31 - 1)]
)
def test_a_video_tokenizer_of_more_blocks_than_memory_is_one_line(
    name: str, value: Any, tmp_path: Path
) -> None:
    import_weights(FIXTURE.parents[1] / "vqgan_jax", tmp_path / "tokenizer")
    settings = json.loads((tmp_path / "tokenizer" / "config.json").read_text())
    (tmp_path / "tokenizer" / "config.json").write_text(
        json.dumps(settings | {"vqgan": settings["vqgan"] | {name: value}})
    )
    with pytest.raises(UserError):
        load_video_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "config.json").write_text(json.dumps(settings | {"kind": [name]}))
    with pytest.raises(UserError, match="kind"):
        load_video_tokenizer(tmp_path / "tokenizer")
