"""What does a picture of the demo world show?

Two things. What the headline says: the category is the shape in the middle, the sub-category is how often it stands there.
And what the headline does not say, the visual appeal, two numbers in [-1.7, 1.7]: warmth (the sky goes from blue to orange) and closeness
(the shape goes from small to large). Readers of the demo world have a taste in both.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SIZE = 64  # pixels a side: four patches of 16 each way, enough for shape, count and colour


def polygon(shape: int, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corner points of shape number 0-9 around (x, y) with radius r: polygons of 3-7 corners, then stars of 3-7 points."""
    corners, star = 3 + shape % 5, shape >= 5
    steps = corners * 2 if star else corners
    radius = [r * (0.4 if star and i % 2 else 1.0) for i in range(steps)]
    return [(x + radius[i] * math.sin(2 * math.pi * i / steps), y - radius[i] * math.cos(2 * math.pi * i / steps)) for i in range(steps)]


def draw_scene(shape: int, count: int, warmth: float, closeness: float, rng: np.random.Generator) -> "Image.Image":
    """One picture: `count` (1-4) copies of shape `shape` under a sky of the given warmth, seen from the given closeness."""
    from PIL import Image, ImageDraw  # here, for machines that only train have no Pillow

    w = float(np.clip(0.5 + warmth / 3.4, 0, 1))
    top = np.array([60 + 190 * w, 130 - 10 * w, 235 - 190 * w])
    sky = top * np.linspace(1.0, 0.7, SIZE)[:, None] + rng.normal(0, 6, (SIZE, 1))  # (rows, rgb)
    pixels = np.clip(np.repeat(sky[:, None], SIZE, 1) + rng.normal(0, 5, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    pen, radius = ImageDraw.Draw(image), 5.5 + 3.0 * float(np.clip(closeness, -1.7, 1.7)) / 1.7
    ink = tuple(int(c) for c in rng.integers(0, 70, 3))
    for i in range(count):
        x, y = 16 + 32 * (i % 2) + rng.normal(0, 2), 16 + 32 * (i // 2) + rng.normal(0, 2)
        pen.polygon(polygon(shape, x, y, radius * 1.6), fill=ink)
    return image
