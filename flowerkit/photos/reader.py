"""One photo, from any camera or phone, as a square JPEG that a network can take.

Upright as its EXIF says, over white where it is transparent, from its colour profile to sRGB, resized
with Pillow's bicubic filter, and written as JPEG of quality 92. A large JPEG is decoded at a half, a
quarter or an eighth of its size, as long as 1.5 times the wanted size is left for the filter.
"""

import functools
import hashlib
import io
import os
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from flowerkit.data import picture_hash, thumbnail
from flowerkit.photos.conversion_file import check_resize

JPEG_QUALITY = 92
SPARE_SCALE = 1.5  # decoding leaves this many times the wanted size for the filter

# Pillow would also open PostScript, and start Ghostscript for it.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
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
    and distorts. A JPEG that is already of that size, without EXIF or profile, is taken byte for byte.

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
    can_read_heic()
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns of large and of slightly damaged pictures that it reads all the same.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as image:
                return _convert(image, file, image_size, resize)
    except Exception as error:  # decoders raise errors of any class, SyntaxError included
        raise UnreadablePhoto(_describe(error, file, num_bytes)) from None


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
    if isinstance(error, UnidentifiedImageError):
        if head[4:8] == b"ftyp":  # HEIC, AVIF
            brand = head[8:12].decode("ascii", "replace")
            return f"damaged, or of a kind that this Pillow does not read ({brand})"
        return f"no picture (begins with {head!r}, {num_bytes:,} bytes)"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"cut off ({num_bytes:,} bytes are there)"
    return f"damaged ({type(error).__name__}: {error})"


# Pixels -------------------------------------------------------------------------------------------


def _convert(image: Image.Image, file, image_size: int, resize: str) -> ReadPhoto:
    format, notes = image.format, []
    if getattr(image, "is_animated", False) and format != "MPO":  # an MPO holds a preview
        notes.append(f"the first of {image.n_frames} frames")
    is_ready = (
        file
        and format == "JPEG"
        and image.mode == "RGB"
        and image.size == (image_size, image_size)
        and not {"exif", "icc_profile"} & image.info.keys()
    )
    width, height = image.size  # before the decoder halves it
    if file and format in ("JPEG", "MPO"):
        image.draft(None, [round(SPARE_SCALE * image_size)] * 2)
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    square = _resize(_simplify(image, notes), image_size, resize)
    square = _to_srgb(square, image, notes)
    # Turned after all else: a square has the fewest pixels to turn.
    if orientation in _TURNS:
        square = square.transpose(_TURNS[orientation])
        notes.append("turned as its EXIF says")
        if orientation >= 5:
            width, height = height, width
    if square.size != (image_size, image_size):
        square = ImageOps.pad(square, (image_size, image_size))
    if is_ready:
        file.seek(0)
        jpeg = file.read()
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


def _simplify(image: Image.Image, notes: list[str]) -> Image.Image:
    """In a mode that can be resized without harm and that `_to_srgb` takes: L, RGB or CMYK."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        notes.append("transparent, put over white")
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, pixels).convert("RGB")
    if image.mode[0] in "IF":  # I;16 of a 16-bit greyscale PNG, I and F of a TIFF
        notes.append("16 bits or more a pixel, reduced to 8")
        return Image.fromarray(_reduce_depth(np.asarray(image)))
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("RGB")  # palettes, black and white, YCbCr, LAB


def _reduce_depth(values: np.ndarray) -> np.ndarray:
    """Grey levels of any depth (h, w) as uint8: 16-bit ones divided by 257, floats 0..1 times 255.

    >>> _reduce_depth(np.array([[0, 32896, 65535]], "uint16"))
    array([[  0, 128, 255]], dtype=uint8)
    """
    values = np.nan_to_num(values.astype("float64"))
    if values.max() <= 1 and values.min() >= 0 and (values % 1).any():
        values = values * 255
    elif values.max() > 255:
        values = values / max(257, values.max() / 255)
    return np.clip(np.round(values), 0, 255).astype("uint8")


def _to_srgb(image: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """From the profile of `source` to sRGB; done after resizing, where few pixels are left."""
    if image.mode == source.mode and (profile := source.info.get("icc_profile")):
        transform, name = _find_transform(profile, image.mode)
        if transform:
            notes.append(f"from the colour profile {name!r} to sRGB")
            return transform.apply(image)
    if image.mode == "CMYK":
        notes.append("CMYK without a profile, converted plainly")
    return image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _find_transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform from a profile to sRGB, None if none is needed or possible, and its name."""
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = (known.profile.profile_description or "unnamed").strip()
        if "srgb" in name.lower():
            return None, name
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(known, srgb, mode, "RGB"), name
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, ""  # a damaged profile is no reason to lose the photo
