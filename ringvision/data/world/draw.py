"""A scene -> frames. Each shape is drawn by the signed distance to its outline, softened over a pixel, on a
textured background; noise is added to every frame.
"""

from functools import lru_cache

import numpy as np

from ringvision.data.world.scene import COLOURS, Card, Scene, Shot, Thing

NOISE = 3.0
"""Standard deviation of the noise on every frame, in steps of 1/255."""

# A digit's strokes as (x0, y0, x1, y1) on a 2 x 4 grid, x to the right, y down.
_STROKES: dict[int, tuple[tuple[float, float, float, float], ...]] = {
    0: ((0, 0, 2, 0), (2, 0, 2, 4), (2, 4, 0, 4), (0, 4, 0, 0)),
    1: ((1, 0, 1, 4), (1, 0, 0.2, 0.9)),
    2: ((0, 0, 2, 0), (2, 0, 2, 2), (2, 2, 0, 2), (0, 2, 0, 4), (0, 4, 2, 4)),
    3: ((0, 0, 2, 0), (2, 0, 2, 4), (0.6, 2, 2, 2), (0, 4, 2, 4)),
    4: ((0, 0, 0, 2.4), (0, 2.4, 2, 2.4), (1.5, 0.9, 1.5, 4)),
    5: ((2, 0, 0, 0), (0, 0, 0, 2), (0, 2, 2, 2), (2, 2, 2, 4), (2, 4, 0, 4)),
    6: ((2, 0, 0, 0), (0, 0, 0, 4), (0, 4, 2, 4), (2, 4, 2, 2), (2, 2, 0, 2)),
    7: ((0, 0, 2, 0), (2, 0, 0.7, 4)),
    8: ((0, 0, 2, 0), (2, 0, 2, 4), (2, 4, 0, 4), (0, 4, 0, 0), (0, 2, 2, 2)),
    9: ((2, 2, 0, 2), (0, 2, 0, 0), (0, 0, 2, 0), (2, 0, 2, 4), (2, 4, 0, 4)),
}


def render(scene: Scene, times: np.ndarray | list[float], size: int = 64) -> np.ndarray:
    """Frames of a scene. times: T of them, in seconds -> uint8 [T, size, size, 3]. The same seed, times and
    size give the same pixels.
    """
    frames = np.empty((len(times), size, size, 3), np.uint8)
    for index, t in enumerate(times):
        frames[index] = _render_one(scene, float(t), size)
    return frames


def _render_one(scene: Scene, t: float, size: int) -> np.ndarray:
    """-> uint8 [size, size, 3]."""
    card = scene.card_at(t)
    if card is not None:
        picture = _draw_card(card, size)
    else:
        picture = _background(scene.shot_at(t), size).copy()
        for thing in scene.drawn_at(t):
            _draw_thing(picture, thing, t, size)
    noise = np.random.default_rng([scene.seed, 2, round(t * 1000)]).standard_normal(
        (size, size, 3), np.float32
    )
    return np.clip(picture + NOISE * noise + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as fractions of the picture: x float32 [1, size], y float32 [size, 1]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size  # (size,)
    return line[None, :], line[:, None]


@lru_cache(maxsize=64)
def _background(shot: Shot, size: int) -> np.ndarray:
    """-> float32 [size, size, 3], in dull colours, so that shapes stand out."""
    random = np.random.default_rng(shot.texture_seed)
    x, y = _grid(size)
    angle = float(random.uniform(0, 2 * np.pi))
    strength = float(random.uniform(8, 18))
    along = x * np.cos(angle) + y * np.sin(angle)  # (size, size)
    if shot.texture == "gradient":
        shade = (along - along.mean()) * 2 * strength
    elif shot.texture == "stripes":
        shade = (
            np.sign(np.sin(along * float(random.uniform(12, 30)) + float(random.uniform(0, 6))))
            * strength
            / 2
        )
    elif shot.texture == "clouds":
        shade = np.zeros((size, size), np.float32)
        for _ in range(4):
            fx = random.uniform(-9, 9)
            fy = random.uniform(-9, 9)
            phase = random.uniform(0, 6)
            shade += np.sin(x * fx + y * fy + phase) * strength / 3
    else:
        shade = np.zeros((size, size), np.float32)
    return (np.asarray(shot.base, np.float32) + np.broadcast_to(shade, (size, size))[..., None]).astype(
        np.float32
    )


def _paint(picture: np.ndarray, distance: np.ndarray, colour: tuple[int, ...], size: int) -> None:
    """Paints `colour` on `picture`, float32 [size, size, 3], where `distance`, [size, size] in fractions of
    the picture, is negative.
    """
    cover = np.clip(0.5 - distance * size, 0, 1).astype(np.float32)[..., None]  # (size, size, 1), 0 to 1
    picture *= 1 - cover
    picture += cover * np.asarray(colour, np.float32)


def _draw_thing(picture: np.ndarray, thing: Thing, t: float, size: int) -> None:
    x, y = _grid(size)
    cx, cy = thing.centre(t)
    _paint(picture, _shape_distance(thing.shape, x - cx, y - cy, thing.radius), thing.rgb_at(t), size)


def _shape_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """x [1, size], y [size, 1] from the centre of a shape -> [size, size]: the signed distance to its
    outline, negative inside.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    if shape == "triangle":
        # Apex up at -radius, base at +0.8 radius: two slanted half-planes and a level one.
        slanted = (1.8 * np.abs(x) - (y + radius)) / np.hypot(1.8, 1.0)
        return np.maximum(slanted, y - 0.8 * radius)
    if shape == "cross":
        arm = 1.05 * radius
        thick = 0.36 * radius
        upright = np.maximum(np.abs(x) - thick, np.abs(y) - arm)
        level = np.maximum(np.abs(x) - arm, np.abs(y) - thick)
        return np.minimum(upright, level)
    raise ValueError(f"no such shape: {shape}")


def _draw_card(card: Card, size: int) -> np.ndarray:
    """-> float32 [size, size, 3]: a digit of strokes on a plain card."""
    x, y = _grid(size)
    picture = np.broadcast_to(np.asarray(COLOURS[card.colour], np.float32), (size, size, 3)).copy()
    unit = 0.175
    left = 0.325
    top = 0.15
    distance = np.full((size, size), np.inf, np.float32)
    for x0, y0, x1, y1 in _STROKES[card.digit]:
        ax = left + unit * x0
        ay = top + unit * y0
        bx = left + unit * x1
        by = top + unit * y1
        # The nearest point of the stroke, as a fraction of the way from a to b: (size, size).
        squared_length = (bx - ax) ** 2 + (by - ay) ** 2
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / squared_length, 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    _paint(picture, distance - 0.06, (12, 12, 12), size)
    return picture
