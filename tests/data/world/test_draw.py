"""What is drawn is what the scene says, also after H.264."""

import numpy as np
import pytest

from ringvision.data.world import (
    COLOURS,
    SHAPES,
    Card,
    Scene,
    Shot,
    Thing,
    encoded_frames,
    make_scene,
    render,
    write_video,
)

SHOT = Shot(0.0, 4.0, (70.0, 70.0, 70.0), "plain", 1)


def one_thing(shape: str, colour: str) -> Scene:
    thing = Thing(shape, colour, 0.22, (0.5, 0.5), (0.5, 0.5), 0.0, 4.0)
    return Scene(3, 4.0, (SHOT,), (thing,))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_middle_of_a_thing_has_its_colour_and_the_corner_has_not(shape, colour):
    frame = render(one_thing(shape, colour), [1.0])[0].astype(int)
    assert np.abs(frame[31:33, 31:33].mean((0, 1)) - COLOURS[colour]).max() < 12
    assert np.abs(frame[:4, :4].mean((0, 1)) - 70).max() < 5


def test_shapes_cover_different_pixels():
    covers = {shape: render(one_thing(shape, "white"), [1.0])[0].mean(-1) > 150 for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            overlap = (covers[one] & covers[other]).sum() / (covers[one] | covers[other]).sum()
            assert (one == other) == (overlap > 0.9), (one, other, overlap)


def test_digits_differ():
    def card(digit):
        return render(Scene(3, 4.0, (SHOT,), (), (Card(digit, "white", 0.0, 4.0),)), [1.0])[0].mean(-1) < 100

    for one in range(10):
        for other in range(one):
            assert (card(one) ^ card(other)).mean() > 0.02, (one, other)


def test_the_same_seed_draws_the_same_pixels_and_noise_differs_between_frames():
    scene = make_scene(11)
    assert np.array_equal(render(scene, [0.0, 1.0]), render(scene, [0.0, 1.0]))
    still = render(one_thing("circle", "red"), [1.0, 2.0]).astype(int)
    assert 0 < np.abs(still[0] - still[1]).mean() < 8


def test_film_looks_like_the_drawing():
    scene = make_scene(5)
    seen = encoded_frames(scene)
    assert seen.shape == (int(scene.duration), 64, 64, 3) and seen.dtype == np.uint8
    drawn = render(scene, range(int(scene.duration)))
    error = np.mean((seen.astype(float) - drawn) ** 2)
    assert 10 * np.log10(255**2 / error) > 28


def test_a_written_file_is_h264_of_the_right_length(tmp_path):
    import av

    scene = make_scene(5)
    write_video(scene, tmp_path / "scene.mp4", fps=8, size=96)
    with av.open(str(tmp_path / "scene.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.codec_context.width, stream.codec_context.height) == (96, 96)
        frames = sum(1 for _ in container.decode(stream))
    assert frames == int(scene.duration * 8)
