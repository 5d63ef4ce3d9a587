"""jpeg: three decoders, one picture; what is damaged has its sentence whichever decodes."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from flowerkit.data import jpeg as module
from flowerkit.data.jpeg import (
    check_jpeg,
    complete_jpeg,
    decode_jpeg,
    decode_strictly,
    find_decoder,
)
from flowerkit.sources import draw_flower

NAMES = ("simplejpeg", "OpenCV", "Pillow")


def load(name):
    try:
        return getattr(module, f"_load_{name.lower()}")()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(params=NAMES)
def decoder(request, monkeypatch):
    chosen = load(request.param)
    assert chosen.name == request.param
    monkeypatch.setattr(module, "find_decoder", lambda: chosen)
    return chosen


def encode(mode="RGB", size=(67, 53), quality=90, **options):
    noise = np.random.default_rng(0).normal(0, 12, (96, 96, 3))
    pixels = np.clip(draw_flower(5, size=96, seed=3) + noise, 0, 255).astype("uint8")
    file = io.BytesIO()
    image = Image.fromarray(pixels).resize(size).convert(mode)
    image.save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
JPEGS = {
    "4:4:4": encode(subsampling=0),
    "4:2:2": encode(subsampling=1),
    "4:2:0": encode(subsampling=2),
    "of the usual size": encode(size=(224, 224)),
    "progressive": encode(progressive=True),
    "with restarts": encode(restart_marker_blocks=2),
    "grey": encode("L"),
    "grey with the sampling of colour": encode("L", subsampling=2),
    "CMYK": encode("CMYK"),
    "RGB": encode(keep_rgb=True),
    "turned by EXIF": encode(exif=TURNED),
    "bytes behind its end": encode() + b"more",
    "bytes before its end": encode()[:-2] + b"\0\0\0\xff\xd9",
    "a hole inside": encode()[:1500] + encode()[1700:],
}


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_every_decoder_gives_the_pixels_of_pillow(decoder, data):
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_jpeg(data), expected)
    stack = np.zeros((3, *expected.shape), "uint8")
    assert decode_jpeg(data, stack[1]) is not None
    np.testing.assert_array_equal(stack[1], expected)
    assert not stack[[0, 2]].any()


WHOLE = encode(size=(32, 32))
DAMAGED = {
    "nothing": (b"", r"not a JPEG \(0 bytes\)"),
    "a PNG": (b"\x89PNG\r\n", r"not a JPEG \(6 bytes\)"),
    "cut in its head": (WHOLE[:100], r"undecodable JPEG \(100 bytes\)"),
    "cut in its pixels": (WHOLE[:-200], r"undecodable JPEG"),
    "of another size": (encode(size=(48, 16)), r"wrong size \(got 16x48, expected 32x32\)"),
    "larger": (encode(size=(64, 64)), r"wrong size \(got 64x64, expected 32x32\)"),
}


@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_every_decoder_refuses_the_same_in_the_same_words(decoder, data, reason):
    with pytest.raises(ValueError, match=reason):
        decode_jpeg(data, np.zeros((32, 32, 3), "uint8"))
    for decode in (True, False):
        with pytest.raises(ValueError, match=reason):
            check_jpeg(data, 32, decode=decode)


def test_only_decoding_finds_damage_between_size_and_end(decoder):
    tables = WHOLE.index(b"\xff\xda") + 6
    damaged = WHOLE[:tables] + b"\x33" + WHOLE[tables + 1 :]  # which do not exist
    check_jpeg(damaged, 32, decode=False)
    with pytest.raises(ValueError, match="undecodable JPEG"):
        check_jpeg(damaged, 32, decode=True)
    check_jpeg(WHOLE, 32, decode=True)


NO_END = {
    "no end": WHOLE[:-2],
    "half of the end": WHOLE[:-1],
    "zeros for the end": WHOLE[:-2] + bytes(600),
}


@pytest.mark.parametrize("data", NO_END.values(), ids=NO_END)
def test_a_jpeg_that_lacks_only_its_end_mark_is_whole(decoder, data):
    check_jpeg(data, 32, decode=True)
    np.testing.assert_array_equal(decode_jpeg(data), decode_jpeg(WHOLE))
    assert complete_jpeg(data) == WHOLE
    assert complete_jpeg(WHOLE) == WHOLE
    assert complete_jpeg(WHOLE[:-30]) == WHOLE[:-30]


def overwrite(data, content, start=0.5, end=1):
    """`data` with other content between two fractions of it, and its end mark."""
    start, end = int(start * len(data)), int(end * (len(data) - 2))
    return data[:start] + content(end - start)[: end - start] + data[end:]


CONTENTS = {
    "zeros": bytes,
    "ones": lambda num: b"\xff" * num,
    "text": lambda num: b"a note about flowers, " * num,
    "another picture": lambda num: encode(size=(300, 300), quality=80)[-num:],
}
KINDS = {
    "baseline": encode(size=(200, 150)),
    "progressive": encode(size=(200, 150), progressive=True),
    "with restarts": encode(size=(200, 150), restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_jpeg_that_was_overwritten_by_half_is_not_as_it_was_saved(kind, content):
    data = KINDS[kind]
    assert decode_strictly(data).shape == (150, 200, 3)
    with pytest.raises(ValueError, match=r"^damaged \(Corrupt JPEG data: "):
        decode_strictly(overwrite(data, content))
    with pytest.raises(ValueError, match=r"^cut off \([\d,]+ bytes are there\)"):
        decode_strictly(data[: len(data) // 2])


def test_what_stands_outside_the_picture_is_no_damage():
    padded = WHOLE[:-2] + bytes(300) + WHOLE[-2:]
    for data in (padded, WHOLE + b"more", WHOLE[:2] + b"\xff\xfe\x00\x04\xff\xff" + WHOLE[2:]):
        decode_strictly(data)  # None or pixels: no error
        np.testing.assert_array_equal(decode_jpeg(data), decode_jpeg(WHOLE))


def test_strict_decoding_takes_scale_and_mode():
    large = encode(size=(400, 300))
    assert decode_strictly(large, size=(70, 90)).shape == (75, 100, 3)
    assert decode_strictly(large, "GRAY", (150, 200)).shape == (150, 200, 1)


def test_the_first_decoder_that_is_installed_is_used(monkeypatch):
    installed = [name for name in NAMES if name == "Pillow" or _is_installed(name)]
    libraries = {"simplejpeg": "simplejpeg", "OpenCV": "cv2"}
    for name in installed:
        assert find_decoder.__wrapped__().name == name
        if name in libraries:
            monkeypatch.setitem(sys.modules, libraries[name], None)


def _is_installed(name):
    try:
        return bool(getattr(module, f"_load_{name.lower()}")())
    except ImportError:
        return False


def test_tensorflows_pixels_differ_a_little_and_no_more():
    tf = pytest.importorskip("tensorflow")
    data = JPEGS["of the usual size"]
    theirs = tf.io.decode_jpeg(data, channels=3).numpy().astype(int)
    difference = np.abs(theirs - decode_jpeg(data))
    assert difference.mean() < 2
    assert difference.max() < 16
