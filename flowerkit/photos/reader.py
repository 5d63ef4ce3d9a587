"""One photo, from any camera or phone, as a square JPEG that a network can take.

Resized with Pillow's bicubic filter, from its colour profile to sRGB, over white where it is
transparent, upright as its EXIF or XMP says, and written as JPEG of quality 92: whatever the container
and its mode are, the same picture gives the same square. A large JPEG is decoded at a half, a quarter
or an eighth of its size, as long as 1.5 times the wanted size is left for the filter. Metadata that is
damaged is passed over; pixels that are damaged are not.
"""

import contextlib
import functools
import hashlib
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from flowerkit.data import complete_jpeg, decode_strictly, picture_hash, thumbnail
from flowerkit.photos.conversion_file import check_resize

JPEG_QUALITY = 92
SPARE_SCALE = 1.5  # decoding leaves this many times the wanted size for the filter

# Pillow would also open PostScript, and start Ghostscript for it.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PNG = b"\x89PNG\r\n\x1a\n"
_DROPPED = "its metadata is damaged and was passed over"
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of colour profiles
_UNSEEN = 2  # of 255: profiles that change no colour by more are sRGB, whatever they are called
_FINGERPRINT_PX = 64
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePhoto(ValueError):
    """No picture can be made of a file; the message names no file, because the caller knows it."""


@dataclass(frozen=True, eq=False)
class ReadPhoto:
    """A photo as a square JPEG, and what is known of it.

    `width` and `height` are the photo's own in px, upright; `digest`, of `jpeg`, `picture_hash` and
    `thumbnail` (16, 16, 3) uint8 are those of `data.duplicates`; `notes` say how it was changed.
    """

    jpeg: bytes
    width: int
    height: int
    digest: str
    picture_hash: int
    thumbnail: np.ndarray
    notes: tuple[str, ...]


def read_photo(
    photo: str | os.PathLike | bytes | Image.Image, image_size: int, resize: str = "crop"
) -> ReadPhoto:
    """Read a file, its bytes or a Pillow image as a JPEG of image_size x image_size px.

    `resize`: "crop" takes the square in the middle, "pad" keeps all and adds black, "squish" keeps all
    and distorts. A JPEG that is already of that size, without EXIF, XMP or profile, is taken byte for
    byte.

    Raises UnreadablePhoto, a ValueError, for a file that is empty, cut off, damaged, no picture,
    too large, or HEIC without pillow-heif; OSError if it cannot be opened; and as `check_size`.
    """
    check_size(image_size, resize)
    if isinstance(photo, Image.Image):
        return _convert(photo, None, image_size, resize)
    if isinstance(photo, bytes):
        return _read_file(io.BytesIO(photo), len(photo), image_size, resize)
    if os.path.exists(photo) and not os.path.isfile(photo):  # a pipe would be waited for
        raise UnreadablePhoto("it is no file of bytes")
    with open(photo, "rb") as file:
        return _read_file(file, os.fstat(file.fileno()).st_size, image_size, resize)


def check_size(image_size: int, resize: str) -> None:
    """Refuse a size or a resize method that `read_photo` does not know, with ValueError."""
    check_resize(resize)
    if image_size < 8:
        raise ValueError(f"image_size={image_size} px is too small. Pass 8 or more; 224 is usual.")


def _read_file(file, num_bytes: int, image_size: int, resize: str) -> ReadPhoto:
    if num_bytes == 0:
        raise UnreadablePhoto("0 bytes")
    try:
        return _open(file, image_size, resize)
    except UnreadablePhoto:
        raise
    except Exception as error:  # decoders raise errors of any class, SyntaxError included
        reason = _describe(error, file, num_bytes)
    file.seek(0)
    with contextlib.suppress(Exception):
        return _open(io.BytesIO(_drop_metadata(file.read())), image_size, resize, [_DROPPED])
    raise UnreadablePhoto(reason)


def _open(file, image_size: int, resize: str, notes: Sequence[str] = ()) -> ReadPhoto:
    can_read_heic()
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        # Pillow warns of large and of slightly damaged pictures that it reads all the same.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=formats) as image:
            return _convert(image, file, image_size, resize, notes)


def _drop_metadata(data: bytes) -> bytes:
    """A PNG, a JPEG, an AVIF or a HEIC without what is no pixels; others as they are."""
    if data.startswith(_PNG):
        kept, rest = _PNG, data[len(_PNG) :]
        while rest:
            end = 12 + int.from_bytes(rest[:4])
            if rest[4:5].isupper() or rest[4:8] == b"tRNS":
                kept += rest[:end]
            rest = rest[end:]
        return kept
    if data.startswith(b"\xff\xd8"):
        kept, rest = data[:2], data[2:]
        while rest[:1] == b"\xff" and rest[1:2] != b"\xda":  # the start of the picture
            kind, end = rest[1], 2 + int.from_bytes(rest[2:4])
            # APP0 to APP15 and comments; APP14 of its full length tells the colour space.
            is_metadata = 0xE0 <= kind <= 0xEF or kind == 0xFE
            if not is_metadata or (kind == 0xEE and len(rest[:end]) >= 16):
                kept += rest[:end]
            rest = rest[end:]
        return kept + rest
    # AVIF and HEIC: an item of another kind is no EXIF
    return re.sub(rb"(infe.{8})(Exif|mime)", rb"\1free", data, flags=re.DOTALL)


@functools.cache
def can_read_heic() -> bool:
    """Whether pillow-heif is installed; Pillow reads HEIC after the first call."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _describe(error: Exception, file, num_bytes: int) -> str:
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and not can_read_heic():
        return "a HEIC photo, which needs pillow-heif: pip install pillow-heif"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * Image.MAX_IMAGE_PIXELS
        return f"too large to be decoded safely (more than {limit:,} px). Save it smaller"
    if isinstance(error, MemoryError):
        return f"too large for the memory ({num_bytes:,} bytes). Save it smaller"
    if isinstance(error, UnidentifiedImageError) and head[4:8] == b"ftyp":  # HEIC, AVIF
        brand = head[8:12].decode("ascii", "replace")
        return f"damaged, or of a kind that this Pillow does not read ({brand})"
    if isinstance(error, UnidentifiedImageError):
        return f"no picture (begins with {head!r}, {num_bytes:,} bytes)"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"cut off ({num_bytes:,} bytes are there)"
    return f"damaged ({type(error).__name__}: {error})"


# Pixels -------------------------------------------------------------------------------------------


def _convert(
    image: Image.Image, file, image_size: int, resize: str, notes: Sequence[str] = ()
) -> ReadPhoto:
    notes = list(notes)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # an MPO holds a preview
        notes.append(f"the first of {image.n_frames} frames")
    # What PNG says of 16 bits is compared with what is left of them: the upper 8.
    is_deep = image.format == "PNG" and image.tile and "16B" in str(image.tile[0][3])
    width, height = image.size  # before the decoder halves it
    jpeg = None
    if file and image.format in ("JPEG", "MPO"):
        file.seek(0)
        jpeg = file.read()
        image = _decode_jpeg(image, jpeg, round(SPARE_SCALE * image_size))
    image.load()
    orientation = _find_orientation(image)
    is_ready = (
        jpeg
        and image.format == "JPEG"
        and image.mode == "RGB"
        and width == height == image_size
        and orientation == 1
        and not {"exif", "xmp", "icc_profile"} & image.info.keys()
    )
    square = _resize(_simplify(image, is_deep, notes), image_size, resize)
    square = _to_srgb(square, image.info, notes)
    # Turned after all else: a square has the fewest pixels to turn.
    if orientation in _TURNS:
        square = square.transpose(_TURNS[orientation])
        notes.append("turned as its EXIF says")
        if orientation >= 5:
            width, height = height, width
    square = ImageOps.pad(square, (image_size, image_size))  # a square stays as it is
    if is_ready:
        jpeg = complete_jpeg(jpeg)
    else:
        encoded = io.BytesIO()
        square.save(encoded, "JPEG", quality=JPEG_QUALITY)
        jpeg = encoded.getvalue()
    # The fingerprints shrink the square anyway: from a third of the size in a third of the time.
    pixels = np.asarray(square.reduce(max(1, image_size // _FINGERPRINT_PX)))
    return ReadPhoto(
        jpeg=jpeg,
        width=width,
        height=height,
        digest=hashlib.sha256(jpeg).hexdigest(),
        picture_hash=int(picture_hash(pixels)),
        thumbnail=thumbnail(pixels),
        notes=tuple(notes),
    )


def _find_orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts; 1 where it is not said, or not readable."""
    try:
        return max({1, image.getexif().get(_ORIENTATION)} & {1, *_TURNS})
    except Exception:  # as decoders
        return 1


def _decode_jpeg(image: Image.Image, jpeg: bytes, spare_px: int) -> Image.Image:
    """A JPEG that Pillow opened, decoded at a smaller scale of at least `spare_px`.

    Raises UnreadablePhoto for damage that Pillow does not see.
    """
    image.draft(None, (spare_px, spare_px))
    mode = "GRAY" if image.mode == "L" else "RGB"
    try:
        pixels = decode_strictly(jpeg, mode, image.size[::-1])
    except ValueError as error:
        raise UnreadablePhoto(str(error)) from None
    if pixels is None or image.mode not in ("L", "RGB"):  # CMYK is converted by its profile
        return image
    decoded = Image.fromarray(pixels.squeeze(2) if mode == "GRAY" else pixels)
    decoded.format, decoded.info = image.format, image.info
    return decoded


def _resize(image: Image.Image, image_size: int, resize: str) -> Image.Image:
    """A square of `image_size` px, or for "pad" the picture whose longer side has `image_size` px."""
    width, height = image.size
    box, size = (0, 0, width, height), (image_size, image_size)
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    elif resize == "pad":
        scale = image_size / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=SPARE_SCALE)


def _simplify(image: Image.Image, is_deep: bool, notes: list[str]) -> Image.Image:
    """In a mode that can be resized without harm and that `_to_srgb` takes: L, RGB, CMYK, La, RGBa.

    `is_deep`: it was a PNG of 16 bits a channel.
    """
    clear = image.info.get("transparency")
    if image.mode[0] in "IF":  # I;16 of a 16-bit greyscale PNG, I and F of a TIFF
        notes.append("16 bits or more a pixel, reduced to 8")
        values = np.asarray(image)
        image = Image.fromarray(_reduce_depth(values, is_deep or image.mode.startswith("I;16")))
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype("uint8")))
    elif is_deep and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image.convert(image.mode[:-1])
        notes.append("transparent, put over white")
        return image.convert(image.mode[:-1] + "a")  # so that what cannot be seen weighs nothing
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")  # palettes, YCbCr


def _reduce_depth(values: np.ndarray, has_16_bits: bool) -> np.ndarray:
    """Grey levels of any depth (h, w) as uint8: 16-bit ones divided by 257, floats 0..1 times 255.

    >>> _reduce_depth(np.array([[0, 32896, 65535]], "uint16"), True)
    array([[  0, 128, 255]], dtype=uint8)
    """
    values = np.nan_to_num(values.astype("float64"))
    if has_16_bits:
        values = values / 257
    elif values.max() <= 1 and values.min() >= 0 and (values % 1).any():
        values = values * 255
    elif values.max() > 255:
        values = values / max(257, values.max() / 255)
    return np.clip(np.round(values), 0, 255).astype("uint8")


def _to_srgb(image: Image.Image, info: Mapping, notes: list[str]) -> Image.Image:
    """From its profile or gamma to sRGB, over white; done after resizing, where few pixels are left."""
    profile, alpha = info.get("icc_profile"), None
    if image.mode[-1] == "a":
        image = image.convert(image.mode[:-1] + "A")
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    transform, mode, name = _find_transform(profile) if profile else (None, "", "")
    if image.mode == "L" and mode == "RGB":
        image = image.convert(mode)
    if transform and image.mode == mode:
        notes.append(f"from the colour profile {name!r} to sRGB")
        image = transform.apply(image)
    elif not profile and (levels := _find_levels(info)):
        notes.append(f"from the gamma {info['gamma']:.3g} to sRGB's")
        image = image.point(levels * len(image.getbands()))
    elif image.mode == "CMYK":
        notes.append("CMYK without a profile, converted plainly")
    image = image.convert("RGB")
    if alpha:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _find_levels(info: Mapping) -> list[int]:
    """What 0 to 255 become in a PNG with another gamma than sRGB's (its gAMA); empty if none needs to.

    >>> _find_levels({"gamma": 1.0})[55], _find_levels({"gamma": 0.45455}), _find_levels({})
    (127, [], [])
    """
    gamma = 0 if "srgb" in info else info.get("gamma", 0)
    if not 0.01 < gamma < 10:
        return []
    levels = np.rint(255 * (np.arange(256) / 255) ** (1 / (2.2 * gamma)))
    changes = np.abs(levels - np.arange(256)).max() > _UNSEEN
    return levels.astype(int).tolist() if changes else []


@functools.lru_cache(maxsize=16)
def _find_transform(profile: bytes) -> tuple[ImageCms.ImageCmsTransform | None, str, str]:
    """The transform from a profile to sRGB, None if none is needed or possible; its mode; its name."""
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = (known.profile.profile_description or "unnamed").strip()
        mode = _MODES.get(known.profile.xcolor_space.strip(), "")
        transform = ImageCms.buildTransform(known, ImageCms.createProfile("sRGB"), mode, "RGB")
        colours = Image.merge(
            "RGB", [Image.linear_gradient("L").rotate(turn) for turn in (0, 90, 45)]
        )
        changed = np.asarray(transform.apply(colours.convert(mode)), "int16") - np.asarray(colours)
        is_srgb = mode == "RGB" and np.abs(changed).max() <= _UNSEEN
        return None if is_srgb else transform, mode, name
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, "", ""  # a damaged profile is no reason to lose the photo
