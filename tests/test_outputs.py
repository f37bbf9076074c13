"""No command writes into what it reads."""

import os
from pathlib import Path

import pytest

from ringvision import shipped
from ringvision.data.world import make_scene, write_video
from ringvision.errors import UserError
from ringvision.evaluate.reconstruction import reconstruct
from ringvision.infer.image_generation import Request, generate_images
from ringvision.outputs import check_output
from ringvision.tokenize import tokenize_videos
from ringvision.train.export_run import export_run
from ringvision.weights.exporting import export_weights


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    write_video(make_scene(3), tmp_path / "library" / "clip.mp4")
    return tmp_path / "library" / "clip.mp4"


def test_other_places_are_free(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    check_output(tmp_path / "out", [tmp_path / "in", tmp_path / "in" / "a.mp4", "*.mp4", "world-16"])
    check_output(tmp_path / "in", [tmp_path / "in" / "a.mp4"])  # beside it
    check_output(tmp_path / "inside", [tmp_path / "in"])


@pytest.mark.parametrize("name", ["in/a.mp4", "in/../in/a.mp4", "link.mp4", "hard.mp4"])
def test_the_input_itself_is_refused_by_any_name(tmp_path, name):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.mp4"
    source.touch()
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    with pytest.raises(UserError, match=r"is what is read .* would be lost"):
        check_output(tmp_path / name, [source])


def test_a_place_inside_an_input_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=r"lies inside .*in, which is read"):
        check_output(tmp_path / "in" / "deep" / "out", [tmp_path / "in"])


def test_a_video_is_not_replaced_by_its_reconstruction(clip):
    before = clip.read_bytes()
    with pytest.raises(UserError, match="would be lost"):
        reconstruct(clip, clip, shipped.tokenizer("world-16"))
    assert clip.read_bytes() == before


def test_nor_by_what_follows_on_it(clip):
    before = clip.read_bytes()
    with pytest.raises(UserError, match="would be lost"):
        generate_images(clip, Request(prompt=None, frames=2), video=clip)
    assert clip.read_bytes() == before


def test_codes_do_not_go_into_the_library(clip):
    with pytest.raises(UserError, match="lies inside"):
        tokenize_videos([clip.parent], clip.parent / "codes", shipped.tokenizer("world-16"))
    assert [path.name for path in clip.parent.iterdir()] == [clip.name]


def test_an_export_does_not_go_into_the_model_or_the_run(tmp_path):
    with pytest.raises(UserError, match="lies inside"):
        export_weights(tmp_path, tmp_path / "hf", "hf")
    with pytest.raises(UserError, match="lies inside"):
        export_run(tmp_path, tmp_path / "model")
    assert not list(tmp_path.iterdir())
