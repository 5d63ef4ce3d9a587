"""duplicates: copies of drawn flowers are found, other flowers are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from flowerkit.data import duplicates
from flowerkit.data.duplicates import (
    MAX_DISTANCE,
    MIN_SIMILARITY,
    TURNS,
    find_near_pairs,
    group_rows,
    picture_hash,
    thumbnail,
    turn_picture,
    turned_hashes,
)
from flowerkit.sources import draw_flower


@pytest.fixture(scope="module")
def flowers():
    """24 pictures of 12 species, two of each, 64 px."""
    return [Image.fromarray(draw_flower(k % 12, size=64, seed=k)) for k in range(24)]


def save_anew(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


CHANGES = {
    "saved at quality 75": lambda image: save_anew(image, 75),
    "saved at quality 30": lambda image: save_anew(image, 30),
    "halved": lambda image: image.resize((32, 32), Image.Resampling.BICUBIC),
    "doubled": lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
    "a tenth lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "of more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
}


def look(images):
    pixels = [np.asarray(image) for image in images]
    return np.array([picture_hash(p) for p in pixels]), np.stack([thumbnail(p) for p in pixels])


def count_bits(first, second):
    return int(first ^ second).bit_count()


# One picture --------------------------------------------------------------------------------------


def test_a_hash_is_a_number_of_64_bits_the_same_on_every_machine():
    ramp = np.linspace(0, 255, 40).astype("uint8")
    image = np.broadcast_to(ramp[:, None, None] // 2 + ramp[None, :, None] // 4, (40, 40, 3)).copy()
    assert picture_hash(image).dtype == np.uint64
    assert picture_hash(draw_flower(0, size=64, seed=1)) != picture_hash(image)
    assert picture_hash(np.full((20, 30, 3), 90, "uint8")) == 0


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 4), (0, 4, 3)])
def test_what_is_no_picture_is_refused_with_its_shape(shape):
    for make in (picture_hash, thumbnail):
        with pytest.raises(ValueError, match=r"a picture is \(h, w, 3\) uint8. Received: shape="):
            make(np.zeros(shape, "uint8"))
    with pytest.raises(ValueError, match="dtype=float32"):
        picture_hash(np.zeros((8, 8, 3), "float32"))


def test_a_mirrored_picture_has_another_hash_and_the_turned_hashes_have_it(flowers):
    for image in flowers:
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert count_bits(*look([image, mirrored])[0]) > 2 * MAX_DISTANCE
        pixels = np.asarray(image)
        hashes = turned_hashes(pixels)
        assert hashes[0] == picture_hash(pixels)
        for turn in range(len(TURNS)):
            turned = np.ascontiguousarray(turn_picture(pixels, turn))
            assert count_bits(picture_hash(turned), hashes[turn]) <= 2
    left, right = np.split(np.asarray(flowers[0]), 2, axis=1)
    expected = np.concatenate([right[:, ::-1], left[:, ::-1]], axis=1)
    np.testing.assert_array_equal(turn_picture(np.asarray(flowers[0]), 4), expected)
    np.testing.assert_array_equal(turn_picture(pixels[None], 1)[0], np.rot90(pixels))
    assert (TURNS[1], TURNS[4]) == ("turned by 90 degrees", "mirrored")


def test_a_thumbnail_has_the_colours_of_the_picture():
    image = np.zeros((40, 60, 3), "uint8")
    image[:, :30], image[:, 30:] = (200, 10, 10), (10, 10, 200)
    small = thumbnail(image)
    assert small.shape == (16, 16, 3)
    assert small[8, 1].tolist() == [200, 10, 10]
    assert small[8, 14].tolist() == [10, 10, 200]


# Many pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(flowers, change):
    pairs = find_near_pairs(*look([*flowers, *map(CHANGES[change], flowers)]))
    assert pairs.rows.tolist() == [[k, k + 24] for k in range(24)]
    assert pairs.distances.max() <= MAX_DISTANCE
    assert pairs.similarity.min() >= MIN_SIMILARITY


def test_flowers_of_the_same_species_are_no_copies():
    hashes, thumbnails = look([draw_flower(k % 3, size=32, seed=k) for k in range(300)])
    assert not find_near_pairs(hashes, thumbnails).rows.size


def test_a_copy_of_a_copy_belongs_to_the_group(flowers):
    copies = [flowers[5], flowers[2], save_anew(flowers[5], 75), save_anew(flowers[5], 60)]
    assert group_rows(find_near_pairs(*look([flowers[0], *copies])).rows) == [[1, 3, 4]]


@pytest.mark.parametrize("numpy", [2, 1])
def test_all_hashes_are_compared_with_all(monkeypatch, numpy):
    if numpy == 1:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 2**12)
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**63, (6, 1), "uint64")
    flips = np.uint64(1) << rng.integers(0, 64, (6, 25, 8)).astype("uint64")
    hashes = rng.permutation((centres ^ np.bitwise_xor.reduce(flips, axis=2)).ravel())
    same_look = np.broadcast_to(thumbnail(draw_flower(0, size=16, seed=0)), (150, 16, 16, 3))
    expected = {}
    for first in range(150):
        for second in range(first + 1, 150):
            if (distance := count_bits(hashes[first], hashes[second])) <= 10:
                expected[first, second] = distance
    pairs = find_near_pairs(hashes, same_look)
    found = dict(zip(map(tuple, pairs.rows.tolist()), pairs.distances.tolist(), strict=True))
    assert len(expected) > 100
    assert found == expected


def test_pictures_without_contrast_are_no_copies():
    flat = [np.full((16, 16, 3), value, "uint8") for value in (0, 0, 200)]
    assert not find_near_pairs(*look(flat)).rows.size


def test_no_pictures_have_no_copies():
    pairs = find_near_pairs(np.empty(0, "uint64"), np.empty((0, 16, 16, 3), "uint8"))
    assert pairs.rows.shape == (0, 2)


def test_groups_join_over_any_number_of_links():
    assert group_rows(np.array([[3, 9], [1, 2], [2, 3]])) == [[1, 2, 3, 9]]
    assert group_rows(np.empty((0, 2), int)) == []
