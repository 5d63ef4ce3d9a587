"""One photo of every kind that cameras, phones and the web make, down to the pixels."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

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
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose by its number
    stored = scene.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", quality=98, subsampling=0, exif=exif)
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
        assert np.abs(error).mean() < 1.5


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
