"""One photo of every kind that cameras, phones and the web make, down to the pixels."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from flowerkit.photos import reader as photo_reader
from flowerkit.photos.reader import UnreadablePhoto, can_read_heic, read_photo

RED, GREEN = (200, 30, 30), (20, 160, 40)


@pytest.fixture(scope="module")
def halves():
    """Red on the left, green on the right; 80 x 60 px."""
    pixels = np.zeros((60, 80, 3), "uint8")
    pixels[:, :40], pixels[:, 40:] = RED, GREEN
    return Image.fromarray(pixels)


def encode(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read_pixels(data, *, size=32, resize="crop"):
    pixels = np.asarray(Image.open(io.BytesIO(read_photo(data, size, resize).jpeg)))
    assert pixels.shape == (size, size, 3)
    return pixels.astype(int)


def edge_colours(pixels):
    """The colours near the left and the right edge."""
    side = len(pixels)
    return [tuple(pixels[side // 2, x].tolist()) for x in (side // 8, side - side // 8 - 1)]


def are_near(found, wanted, tolerance=12):
    return np.abs(np.array(found) - np.array(wanted)).max() <= tolerance


# Formats and modes --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_usual_format_becomes_the_same_square(halves, format):
    photo = read_photo(encode(halves, format), 32)
    assert (photo.width, photo.height, photo.notes) == (80, 60, ())
    assert are_near(edge_colours(read_pixels(encode(halves, format))), [RED, GREEN])


@pytest.mark.skipif(not can_read_heic(), reason="pillow-heif is not installed")
def test_heic_is_read_and_turned_where_pillow_heif_is_installed(halves):
    exif = Image.Exif()
    exif[0x0112] = 3
    photo = read_photo(encode(halves, "HEIF", exif=exif.tobytes()), 32)
    assert (photo.width, photo.height) == (80, 60)
    # pillow-heif turns it itself, and takes the orientation out of the EXIF.
    assert are_near(edge_colours(read_pixels(encode(halves, "HEIF"))), [RED, GREEN])


def test_heic_without_pillow_heif_names_the_remedy(monkeypatch):
    monkeypatch.setattr(photo_reader, "can_read_heic", lambda: False)
    heic = b"\x00\x00\x00\x1cftypheic" + bytes(60)
    with pytest.raises(UnreadablePhoto, match="needs pillow-heif: pip install pillow-heif"):
        read_photo(heic, 32)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greys_become_grey_rgb(halves, mode):
    pixels = read_pixels(encode(halves.convert(mode), "PNG"))
    assert np.ptp(pixels, axis=2).max() <= 2
    if mode != "1":
        assert are_near(edge_colours(pixels), [(81, 81, 81), (104, 104, 104)])


@pytest.mark.parametrize("depth", ["uint16", "int32", "float32"])
def test_16_bits_and_floats_keep_their_range(depth):
    ramp = np.linspace(0, 65535, 80)[None].repeat(60, 0)
    values = ramp / 65535 if depth == "float32" else ramp
    data = encode(Image.fromarray(values.astype(depth)), "TIFF")
    assert are_near(edge_colours(read_pixels(data)), [(58,) * 3, (203,) * 3])
    assert read_photo(data, 32).notes == ("16 bits or more a pixel, reduced to 8",)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white(halves, format):
    see_through = halves.convert("RGBA")
    alpha = np.repeat([[0] * 40 + [255] * 40], 60, axis=0).astype("uint8")
    see_through.putalpha(Image.fromarray(alpha))
    data = encode(see_through, format)
    assert are_near(edge_colours(read_pixels(data)), [(255, 255, 255), GREEN])
    assert read_photo(data, 32).notes == ("transparent, put over white",)


def test_palettes_are_resolved_with_and_without_a_transparent_colour(halves):
    palette = halves.quantize(4)
    assert are_near(edge_colours(read_pixels(encode(palette))), [RED, GREEN])
    clear = encode(palette, transparency=palette.getpixel((0, 0)))
    assert are_near(edge_colours(read_pixels(clear)), [(255, 255, 255), GREEN])


def test_cmyk_becomes_rgb(halves):
    data = encode(halves.convert("CMYK"), "JPEG", quality=95)
    assert are_near(edge_colours(read_pixels(data)), [RED, GREEN])
    assert read_photo(data, 32).notes == ("CMYK without a profile, converted plainly",)


def test_an_animation_gives_its_first_frame(halves):
    flipped = halves.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = encode(halves, "GIF", save_all=True, append_images=[flipped], duration=50)
    assert are_near(edge_colours(read_pixels(data)), [RED, GREEN])
    assert read_photo(data, 32).notes == ("the first of 2 frames",)


# Upright and in sRGB ------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["crop", "pad", "squish"])
def test_every_exif_orientation_stands_upright(orientation, resize):
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 255, (3, 4, 3), "uint8")).resize((320, 240), 0)
    stored = undo_turn(scene, orientation)
    data = encode(stored, "JPEG", quality=98, subsampling=0, exif=make_exif(orientation))
    wanted = read_pixels(encode(scene), size=64, resize=resize)
    assert np.abs(read_pixels(data, size=64, resize=resize) - wanted).mean() < 4
    photo = read_photo(data, 64, resize)
    assert (photo.width, photo.height) == (320, 240)
    assert (photo.notes == ("turned as its EXIF says",)) == (orientation > 1)


def make_profile(swapped):
    """sRGB; or, with another name, a profile whose red is sRGB's blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if not swapped:
        return profile
    at = {}
    for number in range(int.from_bytes(profile[128:132], "big")):
        start = 132 + 12 * number
        at[profile[start : start + 4]] = start
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    changed = bytearray(profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")))
    changed[red + 4 : red + 12] = profile[blue + 4 : blue + 12]
    changed[blue + 4 : blue + 12] = profile[red + 4 : red + 12]
    return bytes(changed)


def test_colours_go_from_the_profile_to_srgb(halves):
    data = encode(halves, icc_profile=make_profile(swapped=True))
    assert are_near(edge_colours(read_pixels(data)), [RED[::-1], GREEN[::-1]])
    assert "from the colour profile 'swap" in read_photo(data, 32).notes[0]


@pytest.mark.parametrize("profile", [make_profile(swapped=False), b"no profile at all"])
def test_srgb_and_damaged_profiles_change_nothing(halves, profile):
    data = encode(halves, icc_profile=profile)
    assert are_near(edge_colours(read_pixels(data)), [RED, GREEN])
    assert read_photo(data, 32).notes == ()


@pytest.mark.parametrize(
    ("chunks", "grey", "notes"),
    [
        ({"gAMA": 100_000}, 188, ("from the gamma 1 to sRGB's",)),  # stored as light: 128 is half
        ({"gAMA": 45_455}, 128, ()),
        ({"gAMA": 100_000, "sRGB": 0}, 128, ()),  # which overrules it
        ({"gAMA": 0}, 128, ()),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_png_of_another_gamma_looks_as_a_browser_shows_it(mode, chunks, grey, notes):
    info = PngInfo()
    for name, value in chunks.items():
        info.add(name.encode(), struct.pack(">I" if name == "gAMA" else ">B", value))
    picture = Image.new("RGB", (40, 30), (128, 128, 128)).convert(mode)
    data = encode(picture, pnginfo=info)
    assert np.abs(read_pixels(data) - grey).max() <= 3
    assert read_photo(data, 32).notes == notes


# One picture, one square --------------------------------------------------------------------------


def encode_deep(image, **chunks):
    """A PNG of 16 bits a channel, which Pillow does not write."""
    pixels = np.asarray(image)
    rows = (pixels.astype(">u2") * 257).view("u1").reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # a byte a row says: no filter
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    head = struct.pack(">IIBBBBB", *image.size, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *((name.encode(), data) for name, data in chunks.items())]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        make_chunk(name, data)
        for name, data in [*parts, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    )


def make_chunk(name, data, checksum=None):
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def encode_deep_with_profile(image, icc_profile=None, exif=None):
    chunks = {"iCCP": b"icc\0\0" + zlib.compress(icc_profile)} if icc_profile else {}
    if exif:
        chunks["eXIf"] = exif.removeprefix(b"Exif\0\0")
    return encode_deep(image, **chunks)


# Each: how a picture (RGB) is saved, and whether all of its pixels come back.
SAVED = {
    "PNG": (lambda p, **m: encode(p, "PNG", **m), True),
    "PNG, palette": (lambda p, **m: encode(p.quantize(256), "PNG", **m), True),
    "PNG, alpha": (lambda p, **m: encode(p.convert("RGBA"), "PNG", **m), True),
    "PNG, 16 bits": (encode_deep_with_profile, True),
    "PNG, 16 bits, alpha": (lambda p, **m: encode_deep_with_profile(p.convert("RGBA"), **m), True),
    "TIFF": (lambda p, **m: encode(p, "TIFF", **m), True),
    "TIFF, LZW": (lambda p, **m: encode(p, "TIFF", compression="tiff_lzw", **m), True),
    "TIFF, alpha": (lambda p, **m: encode(p.convert("RGBA"), "TIFF", **m), True),
    "WebP": (lambda p, **m: encode(p, "WEBP", lossless=True, **m), True),
    "WebP, alpha": (lambda p, **m: encode(p.convert("RGBA"), "WEBP", lossless=True, **m), True),
    "WebP, lossy": (lambda p, **m: encode(p, "WEBP", quality=100, **m), False),
    "JPEG": (lambda p, **m: encode(p, "JPEG", quality=98, subsampling=0, **m), False),
    "JPEG, progressive": (
        lambda p, **m: encode(p, "JPEG", quality=98, progressive=True, **m),
        False,
    ),
}
GREYS = {
    "PNG": (lambda p, **m: encode(p, "PNG", **m), True),
    "PNG, alpha": (lambda p, **m: encode(p.convert("LA"), "PNG", **m), True),
    "PNG, 16 bits": (encode_deep_with_profile, True),
    "PNG, 16 bits, alpha": (lambda p, **m: encode_deep_with_profile(p.convert("LA"), **m), True),
    "TIFF": (lambda p, **m: encode(p, "TIFF", **m), True),
    "JPEG": (lambda p, **m: encode(p, "JPEG", quality=98, **m), False),
}


def undo_turn(image, orientation):
    """The picture as a camera stores it that writes this orientation."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose by its number
    return image.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else image


def make_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@st.composite
def pictures(draw, channels=3):
    """Few colours (a palette holds them), large cells (JPEG does, too)."""
    seed = draw(st.integers(0, 999))
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), "uint8").squeeze()
    width, height = draw(st.sampled_from([(50, 40), (40, 50), (64, 64), (400, 300), (33, 90)]))
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def check_same(data, wanted, is_exact, size, resize):
    difference = np.abs(read_pixels(data, size=size, resize=resize) - wanted)
    assert difference.mean() < (
        0.5 if is_exact else 12
    )  # of the codec, on colours without any order
    assert not is_exact or difference.max() <= 12


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    data=st.data(),
    orientation=st.integers(1, 8),
    profile=st.sampled_from([None, "sRGB", "swapped", b"no profile at all"]),
    size=st.sampled_from([32, 64]),
    resize=st.sampled_from(["crop", "pad", "squish"]),
)
def test_one_picture_is_one_square_in_every_container_and_mode(
    data, orientation, profile, size, resize
):
    is_grey = data.draw(st.booleans(), "grey")
    picture = data.draw(pictures(1 if is_grey else 3), "picture")
    shown = picture
    if isinstance(profile, str):
        profile = make_profile(swapped=profile == "swapped")
    if profile and not is_grey and profile == make_profile(swapped=True):
        shown = Image.fromarray(np.asarray(picture)[..., ::-1].copy())
    wanted = read_pixels(encode(shown.convert("RGB")), size=size, resize=resize)
    metadata = {"icc_profile": profile} if profile else {}
    if orientation > 1:
        metadata["exif"] = make_exif(orientation)
    for name, (save, is_exact) in (GREYS if is_grey else SAVED).items():
        saved = save(undo_turn(picture, orientation), **metadata)
        try:
            check_same(saved, wanted, is_exact and orientation == 1, size, resize)
        except AssertionError as error:
            raise AssertionError(name) from error


@settings(max_examples=20, deadline=None, derandomize=True)
@given(picture=pictures(), seed=st.integers(0, 99), is_soft=st.booleans(), swapped=st.booleans())
def test_what_is_transparent_is_white_whatever_holds_it(picture, seed, is_soft, swapped):
    levels = np.random.default_rng(seed).integers(0, 256, (3, 4), "uint8")
    levels = levels if is_soft else np.where(levels > 127, 255, 0).astype("uint8")
    alpha = Image.fromarray(levels).resize(picture.size, Image.Resampling.NEAREST)
    shown = np.asarray(picture)[..., :: -1 if swapped else 1]
    weight = np.asarray(alpha)[..., None] / 255
    over_white = Image.fromarray(np.round(shown * weight + 255 * (1 - weight)).astype("uint8"))
    wanted = read_pixels(encode(over_white), size=64)
    see_through = picture.copy()
    see_through.putalpha(alpha)
    metadata = {"icc_profile": make_profile(swapped)}
    saved = [
        encode(see_through, "PNG", **metadata),
        encode(see_through, "WEBP", lossless=True, exact=True, **metadata),
        encode(see_through, "TIFF", **metadata),
        encode_deep_with_profile(see_through, **metadata),
    ]
    if not is_soft:
        colours = np.where(np.asarray(alpha)[..., None] > 0, np.asarray(picture) // 2, 255)
        wanted_of_key = read_pixels(
            encode(Image.fromarray(colours[..., :: -1 if swapped else 1].astype("uint8"))), size=64
        )
        keyed = Image.fromarray(np.where(colours == 255, (3, 2, 1), colours).astype("uint8"))
        for data in (
            encode(keyed, transparency=(3, 2, 1), **metadata),
            encode_deep(
                keyed,
                iCCP=b"icc\0\0" + zlib.compress(metadata["icc_profile"]),
                tRNS=struct.pack(">HHH", 3 * 257, 2 * 257, 257),
            ),
        ):
            assert np.abs(read_pixels(data, size=64) - wanted_of_key).mean() < 3
    for data in saved:
        assert np.abs(read_pixels(data, size=64) - wanted).mean() < 3


def test_a_transparent_level_of_16_bit_grey_is_white_and_the_others_stay():
    grey = Image.fromarray(np.repeat([[10] * 40 + [200] * 40], 60, axis=0).astype("uint8"))
    data = encode_deep(grey, tRNS=struct.pack(">H", 10 * 257))
    assert are_near(edge_colours(read_pixels(data)), [(255,) * 3, (200,) * 3])
    dark = encode_deep(Image.fromarray(np.zeros((60, 80), "uint8") + 1))
    assert read_pixels(dark).max() <= 2  # and not as bright as the brightest can be


def test_a_grey_picture_is_read_through_a_profile_of_colours():
    """A profile of gamma 1 brightens: the levels are of light, not of what is seen."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    curve = profile.index(b"para")
    linear = profile[:curve] + b"curv" + bytes(8) + profile[curve + 12 :]
    grey = Image.new("L", (40, 40), 55)
    plain, coloured = (encode(image, icc_profile=linear) for image in (grey, grey.convert("RGB")))
    assert are_near(read_pixels(plain)[16, 16], read_pixels(coloured)[16, 16], 2)
    assert read_pixels(plain)[16, 16, 0] > 110
    assert read_photo(plain, 32).notes[0].startswith("from the colour profile")


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def test_a_jpeg_of_the_right_size_is_turned_as_its_xmp_says(halves):
    square = halves.resize((32, 32))
    photo = read_photo(encode(square, "JPEG", quality=98, xmp=XMP), 32)
    assert photo.notes == ("turned as its EXIF says",)
    pixels = np.asarray(Image.open(io.BytesIO(photo.jpeg))).astype(int)
    assert are_near([pixels[4, 16], pixels[27, 16]], [RED, GREEN], 20)


EXIFS = {
    "garbage": b"garbage!!",
    "ones": b"\xff" * 20,
    "half a head": b"MM\0*\0\0",
    "points nowhere": b"II*\0\xff\xff\xff\x7f",
    "an unknown type": b"II*\0\x08\0\0\0\x01\0\x12\x01\xff\x00\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "a word": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\x00\x02\0\0\x006\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("exif", EXIFS.values(), ids=EXIFS)
def test_damaged_exif_costs_no_pixels(halves, format, exif):
    if format == "HEIF" and not can_read_heic():
        pytest.skip("pillow-heif is not installed")
    if format == "PNG":
        data = encode(halves)
        data = data[:33] + make_chunk(b"eXIf", exif) + data[33:]
    else:  # written whole, damaged then
        if format not in Image.SAVE:
            pytest.skip(f"this Pillow writes no {format}")
        exif = exif.ljust(40, b"\0")
        valid = b"II*\0\x08\0\0\0".ljust(40, b"\0")
        data = encode(halves, format, exif=b"Exif\0\0" + valid)
        assert data.count(valid) == 1
        data = data.replace(valid, exif)
    assert are_near(edge_colours(read_pixels(data)), [RED, GREEN], 16)


def bomb(num=3 << 20):
    return zlib.compress(bytes(num))


CHUNKS = {
    "a checksum": make_chunk(b"tEXt", b"a\0b", checksum=1),
    "a text that is too long": make_chunk(b"zTXt", b"a\0\0" + bomb()),
    "an unknown compression": make_chunk(b"zTXt", b"a\0\7xx"),
    "EXIF as text": make_chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n1\n2\nxyz\n")
    ),
    "a short size": make_chunk(b"pHYs", b"\1"),
    "a short gamma": make_chunk(b"gAMA", b"\1"),
    "an empty intent": make_chunk(b"sRGB", b""),
    "a short white point": make_chunk(b"cHRM", b"123"),
    "an empty profile": make_chunk(b"iCCP", b""),
    "a profile that is no profile": make_chunk(b"iCCP", b"icc\0\0junk"),
    "a profile that is too long": make_chunk(b"iCCP", b"icc\0\0" + bomb()),
    "a name that is none": make_chunk(b"a\0b1", b"123"),
    "an animation without frames": make_chunk(b"acTL", b"123"),
}


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_damaged_chunk_of_a_png_costs_no_pixels(halves, chunk, place):
    data = encode(halves)
    at = 33 if place == "before" else data.index(b"IEND") - 4
    data = data[:at] + chunk + data[at:]
    assert are_near(edge_colours(read_pixels(data)), [RED, GREEN])


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 30, b"JFIF\0", b"Adobe\0", b"MPF\0II*\0", b"Photoshop 3.0\x008BIM\xff"],
)
def test_a_damaged_segment_of_a_jpeg_costs_no_pixels(halves, marker, content):
    data = encode(halves, "JPEG", quality=98)
    head = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    assert are_near(edge_colours(read_pixels(data[:2] + head + data[2:])), [RED, GREEN])


def test_metadata_that_had_to_be_dropped_is_noted(halves):
    data = encode(halves)
    data = data[:33] + CHUNKS["a checksum"] + data[33:]
    assert read_photo(data, 32).notes == ("its metadata is damaged and was passed over",)


# Fit and size -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stripes():
    """Five stripes, 200 x 100 px: blue, then 40 px each of red, green, white, and blue."""
    colours = [(0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 255)]
    return Image.fromarray(np.repeat(np.array([colours], "uint8"), 40, axis=1).repeat(100, axis=0))


def test_crop_keeps_the_middle(stripes):
    pixels = read_pixels(encode(stripes), size=50)
    assert are_near(pixels[25, [5, 25, 45]], [(255, 0, 0), (0, 255, 0), (255, 255, 255)], 40)
    assert np.all(pixels[..., 2] > 200, axis=(0, 1)).sum() == 0


def test_pad_keeps_all_between_black_bars(stripes):
    pixels = read_pixels(encode(stripes), size=100, resize="pad")
    assert pixels[:20].max() < 10
    assert pixels[80:].max() < 10
    assert are_near(pixels[50, [5, 50, 95]], [(0, 0, 255), (0, 255, 0), (0, 0, 255)], 40)


def test_squish_keeps_all_distorted(stripes):
    pixels = read_pixels(encode(stripes), size=100, resize="squish")
    assert are_near(pixels[[2, 97], [5, 95]], [(0, 0, 255), (0, 0, 255)], 40)
    assert are_near(pixels[50, 50], (0, 255, 0), 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 9), (31, 33)])
@pytest.mark.parametrize("resize", ["crop", "pad", "squish"])
def test_photos_of_any_shape_become_squares(size, resize):
    assert read_pixels(encode(Image.new("RGB", size, RED)), resize=resize).shape == (32, 32, 3)


def test_a_large_jpeg_decoded_at_an_eighth_looks_as_if_decoded_whole():
    scene = np.random.default_rng(1).integers(0, 255, (12, 16, 3), "uint8")
    large = Image.fromarray(scene).resize((1600, 1200), Image.Resampling.BICUBIC)
    jpeg, png = (encode(large, "JPEG", quality=95), encode(large, "PNG"))
    for resize in ("crop", "pad", "squish"):
        error = read_pixels(jpeg, size=64, resize=resize) - read_pixels(png, size=64, resize=resize)
        assert np.abs(error).mean() < 3


def test_a_jpeg_of_the_right_size_is_taken_byte_for_byte(halves):
    ready = encode(halves.resize((32, 32)), "JPEG", quality=77)
    photo = read_photo(ready, 32)
    assert photo.jpeg == ready
    assert photo.digest == hashlib.sha256(ready).hexdigest()
    exif = Image.Exif()
    exif[0x0132] = "2026:11:22 06:00:00"
    private = encode(halves.resize((32, 32)), "JPEG", quality=77, exif=exif)
    assert b"Exif" not in read_photo(private, 32).jpeg


def test_copies_that_differ_in_metadata_alone_have_one_digest(halves):
    exif = Image.Exif()
    exif[0x0132] = "2026:11:22 06:00:00"
    first, second = (
        read_photo(encode(halves, "JPEG"), 32),
        read_photo(encode(halves, "JPEG", exif=exif), 32),
    )
    assert first.digest == second.digest
    assert first.picture_hash == second.picture_hash
    assert (first.thumbnail.shape, first.thumbnail.dtype) == ((16, 16, 3), np.uint8)


def test_a_file_is_read_as_its_bytes_are(halves, tmp_path):
    data = encode(halves, "JPEG")
    (tmp_path / "꽃.jpg").write_bytes(data)
    assert read_photo(tmp_path / "꽃.jpg", 32).jpeg == read_photo(data, 32).jpeg
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "none.jpg", 32)


# Bad input ----------------------------------------------------------------------------------------


def test_what_is_no_photo_says_what_it_is(halves):
    jpeg = encode(halves.resize((400, 300)), "JPEG")
    png = encode(halves)
    cases = {
        b"": "^0 bytes$",
        b"a note about flowers": r"^no picture \(begins with b'a note about', 20 bytes\)$",
        encode(halves, "EPS"): r"^no picture \(begins with b'%!PS",  # would start Ghostscript
        jpeg[: len(jpeg) // 2]: rf"^cut off \({len(jpeg) // 2:,} bytes are there\)$",
        jpeg[:100]: "^cut off",
        png[:60] + bytes(20) + png[80:]: "^damaged",
        b"\x00\x00\x00 ftypavif" + bytes(99): r"^damaged, or of a kind .* \(avif\)$",
    }
    for data, reason in cases.items():
        with pytest.raises(UnreadablePhoto, match=reason):
            read_photo(data, 32)


def test_a_jpeg_without_its_end_mark_is_read_and_one_overwritten_by_half_is_not(halves):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    jpeg = encode(Image.fromarray(noise), "JPEG")
    assert read_photo(jpeg[:-2], 32).jpeg == jpeg
    assert read_photo(jpeg[:-2], 64).jpeg == read_photo(jpeg, 64).jpeg
    half = len(jpeg) // 2
    for content in (bytes(half), b"flower" * half):
        with pytest.raises(UnreadablePhoto, match=r"^damaged \(Corrupt JPEG data: .* are wrong$"):
            read_photo(jpeg[:half] + content[: half - 2] + jpeg[-2:], 32)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encode(Image.new("1", (20000, 10000)))
    assert len(bomb) < 100_000
    reason = r"too large to be decoded safely \(more than 178,956,970 px\)\. Save it smaller"
    with pytest.raises(UnreadablePhoto, match=reason):
        read_photo(bomb, 32)


def test_a_fit_or_size_that_cannot_be_made_is_refused(halves):
    with pytest.raises(ValueError, match="resize='zoom' is none of crop, pad, squish"):
        read_photo(encode(halves), 32, "zoom")
    with pytest.raises(ValueError, match=r"image_size=4 px is too small\. Pass 8 or more"):
        read_photo(encode(halves), 4)
