"""Folders of drawn flowers to convert."""

import pytest
from PIL import Image

from flowerkit.sources import draw_flower


@pytest.fixture(scope="session")
def draw():
    """`draw(folder, names, num)`: `num` flowers of a species each name, as folder/name/00.png and on."""

    def draw(folder, names, num, *, size=32, seed=0):
        for k, name in enumerate(names):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(num):
                pixels = draw_flower(8 * k, size=size, seed=seed + number)
                Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
        return folder

    return draw
