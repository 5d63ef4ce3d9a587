"""The contact sheet shows the pictures that the pairs name."""

import io

import numpy as np
import pytest
from PIL import Image

from flowerkit.data.leak_sheet import draw_pairs
from flowerkit.data.leaks import DuplicatePair, Place
from flowerkit.data.records import read_records


@pytest.fixture(scope="module")
def pairs(drawn):
    """Record k of train beside record k of val, for 6 of them."""
    train, val = drawn.files["train"][0], drawn.files["val"][0]
    return [
        DuplicatePair(
            "near duplicate",
            Place("train", train, k, f"t{k}", 0),
            Place("val", val, k, f"v{k}", k % 2),
            k,
            0.95,
        )
        for k in range(6)
    ]


def test_each_pair_stands_side_by_side(pairs, drawn, tmp_path):
    assert draw_pairs(tmp_path / "pairs.png", pairs) == 6
    sheet = np.asarray(Image.open(tmp_path / "pairs.png")).astype(int)
    assert sheet.shape == (2 * (160 + 44), 4 * (2 * 160 + 14), 3)
    records = dict(read_records(drawn.files["val"][0]))
    for k, (left, top) in {1: (334, 0), 5: (334, 204)}.items():
        val = Image.open(io.BytesIO(records[k].image)).resize((160, 160), Image.Resampling.BICUBIC)
        assert (sheet[top : top + 160, left + 160 : left + 320] == np.asarray(val)).all()


def test_no_more_than_asked_for_are_drawn_and_nothing_for_nothing(pairs, tmp_path):
    assert draw_pairs(tmp_path / "two.png", pairs, max_pairs=2) == 2
    assert Image.open(tmp_path / "two.png").size == (2 * 334, 204)
    assert draw_pairs(tmp_path / "none.png", []) == 0
    assert not (tmp_path / "none.png").exists()
