import io

import numpy as np
from PIL import Image

from flowerkit.reports.pictures import Picture, encode_photo, encode_photos


def opened(picture):
    return Image.open(io.BytesIO(picture.content))


def test_a_photo_becomes_a_jpeg_of_at_most_224_px():
    small = encode_photo(np.full((32, 32, 3), (200, 30, 30), "uint8"))
    assert (small.width_px, small.height_px) == (32, 32)
    assert np.abs(np.asarray(opened(small))[5, 5].astype(int) - (200, 30, 30)).max() < 6
    large = encode_photo(np.zeros((512, 256, 3), "uint8"))
    assert (large.width_px, large.height_px) == (112, 224)


def test_a_picture_is_text_in_a_page():
    assert Picture(b"\xff\xd8", 30, 20).address == "data:image/jpeg;base64,/9g="


def test_photos_are_encoded_in_their_order_until_their_room_is_used():
    images = np.arange(40, dtype="uint8")[:, None, None, None].repeat(64, 1).repeat(64, 2)
    images = images.repeat(3, 3)
    found = encode_photos(images, {39: 64, 2: 16, 7: 64}, 10_000)
    assert [(row, picture.width_px) for row, picture in found.items()] == [
        (39, 64),
        (2, 16),
        (7, 64),
    ]
    assert np.asarray(opened(found[39]))[0, 0].tolist() == [39] * 3
    one = len(found[39].address)
    assert list(encode_photos(images, {39: 64, 7: 64}, 2 * one - 1)) == [39]
    assert len(encode_photos(images, dict.fromkeys(range(40), 8), 100_000)) == 40
