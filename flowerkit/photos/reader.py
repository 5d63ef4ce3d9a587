"""One photo, whatever a camera or a phone made of it, as a square JPEG that a network can take.

Turned as its EXIF says, over white where it is transparent, from its colour profile to sRGB, resized
with Pillow's antialiasing filters, and written as JPEG of quality 92 with halved chroma, as drawn
flowers are. A large JPEG is decoded at a half, a quarter or an eighth, as far as one and a half times
the wanted size is left for the filter. With 1.7 times left that is 41 to 43 dB from the full road, in
medians of 200 photos; another filter (bilinear) is at 37 to 39, the JPEG written at the end at 30 to 32.
"""

import functools
import io
import os
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from flowerkit.data.duplicates import byte_digest, picture_hash, thumbnail
from flowerkit.photos.report import RESIZE_METHODS

JPEG_QUALITY = 92

# Pillow would also open PostScript, and start Ghostscript for it.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIC_REMEDY = "a HEIC photo, which needs pillow-heif: pip install pillow-heif"
_WHITE = (255, 255, 255)
# Decoding stops shrinking while this many times the wanted size is left for the filter.
SPARE_SCALE = 1.5
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
_SIDEWAYS = (5, 6, 7, 8)


class UnreadablePhoto(ValueError):
    """Why no picture can be made of a file; the text names no file, for the caller knows it."""


@dataclass(frozen=True, eq=False)
class ReadPhoto:
    """A photo as a square JPEG, and what is known of it.

    `width` and `height` are the photo's own in px, upright; `format` is Pillow's name ("JPEG");
    `digest` is the SHA-256 of `jpeg`, so equal for copies whose metadata alone differ;
    `picture_hash` and `thumbnail` (16, 16, 3) uint8 are those of `fingerprints`, of the square in small;
    `notes` say what was done to the photo.
    """

    jpeg: bytes
    width: int
    height: int
    format: str
    digest: str
    picture_hash: int
    thumbnail: np.ndarray
    notes: tuple[str, ...]


def read_photo(
    photo: str | os.PathLike | bytes, image_size: int, resize: str = "crop"
) -> ReadPhoto:
    """Read a file, or its bytes, as a JPEG of image_size x image_size px.

    `resize`: "crop" takes the square in the middle, "pad" keeps all and adds black, "squish" keeps all
    and distorts. A JPEG that is already of that size, without EXIF or profile, is taken byte for byte.

    Raises UnreadablePhoto, a ValueError, for a file that is empty, cut off, damaged, no picture,
    too large, or HEIC without pillow-heif; ValueError for another `resize` or a size below 8; OSError
    if the file cannot be opened.
    """
    check_request(image_size, resize)
    if isinstance(photo, bytes):
        return _read_file(io.BytesIO(photo), len(photo), image_size, resize)
    with open(photo, "rb") as file:
        return _read_file(file, os.fstat(file.fileno()).st_size, image_size, resize)


def check_request(image_size: int, resize: str) -> None:
    """Refuse a size or a resize that `read_photo` cannot make, with ValueError."""
    if resize not in RESIZE_METHODS:
        raise ValueError(f"resize={resize!r} is unknown. Pass one of {', '.join(RESIZE_METHODS)}.")
    if image_size < 8:
        raise ValueError(f"image_size={image_size} px is too small. Pass 8 or more; 224 is usual.")


def _read_file(file, num_bytes: int, image_size: int, resize: str) -> ReadPhoto:
    if num_bytes == 0:
        raise UnreadablePhoto("0 bytes")
    can_read_heic()
    try:
        with warnings.catch_warnings():
            # Pillow warns of large and of slightly broken pictures that it reads all the same.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_known_formats()) as image:
                return _convert(image, file, image_size, resize)
    except Exception as error:  # decoders raise whatever they tripped over, SyntaxError included
        raise UnreadablePhoto(_describe(error, file, num_bytes)) from None


@functools.cache
def can_read_heic() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed; the answer is whether it now knows it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _describe(error: Exception, file, num_bytes: int) -> str:
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and not can_read_heic():
        return _HEIC_REMEDY
    if isinstance(error, UnidentifiedImageError) and head[4:8] == b"ftyp":  # HEIC, AVIF
        kind = head[8:12].decode("ascii", "replace")
        return f"damaged, or of a kind that this Pillow does not read ({kind})"
    if isinstance(error, Image.DecompressionBombError):
        limit = f"{2 * Image.MAX_IMAGE_PIXELS:,} px"
        return f"too large to be decoded safely (more than {limit}). Save it smaller"
    if isinstance(error, UnidentifiedImageError):
        return f"no picture (begins with {head!r}, {num_bytes:,} bytes)"
    if isinstance(error, MemoryError):
        return f"too large for the memory ({num_bytes:,} bytes). Save it smaller"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"cut off ({num_bytes:,} bytes are there)"
    return f"damaged ({type(error).__name__}: {error})"


# Pixels -------------------------------------------------------------------------------------------


def _convert(image: Image.Image, file, image_size: int, resize: str) -> ReadPhoto:
    format, notes = image.format, []
    if getattr(image, "is_animated", False) and format != "MPO":  # an MPO holds a preview
        notes.append(f"the first of {image.n_frames} frames")
    as_it_is = _is_ready(image, image_size)
    width, height = image.size  # before it is decoded at a half
    box, size = _choose_part(image.size, image_size, resize)
    box = _shrink_while_decoding(image, box, size)
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    square = _finish(_resize(_simplify(image, notes), box, size), image, notes)
    if orientation in _TURNS:
        square = square.transpose(_TURNS[orientation])
        notes.append("turned as its EXIF says")
    if square.size != (image_size, image_size):
        square = _pad(square, image_size)
    if orientation in _SIDEWAYS:
        width, height = height, width
    jpeg = _take_bytes(file) if as_it_is else _encode(square)
    # The fingerprints shrink it in any case: from a third the size that takes a third of the time.
    pixels = np.asarray(square.reduce(max(1, image_size // _FINGERPRINT_PX)))
    return ReadPhoto(
        jpeg=jpeg,
        width=width,
        height=height,
        format=format,
        digest=byte_digest(jpeg),
        picture_hash=int(picture_hash(pixels)),
        thumbnail=thumbnail(pixels),
        notes=tuple(notes),
    )


def _is_ready(image: Image.Image, image_size: int) -> bool:
    """Whether encoding it once more would only lose: already such a JPEG, with nothing to heed."""
    return (
        image.format == "JPEG"
        and image.mode == "RGB"
        and image.size == (image_size, image_size)
        and not {"exif", "icc_profile"} & image.info.keys()
    )


def _choose_part(
    size: tuple[int, int], image_size: int, resize: str
) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Which part of a picture of `size` (width, height) is kept, and the size it gets, both in px.

    >>> _choose_part((400, 300), 224, "crop")
    ((50.0, 0.0, 350.0, 300.0), (224, 224))
    >>> _choose_part((400, 300), 224, "pad")
    ((0.0, 0.0, 400.0, 300.0), (224, 168))
    >>> _choose_part((400, 300), 224, "squish")
    ((0.0, 0.0, 400.0, 300.0), (224, 224))
    """
    width, height = size
    if resize == "crop":
        side = min(size)
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side), (image_size, image_size)
    whole = (0.0, 0.0, float(width), float(height))
    if resize == "squish":
        return whole, (image_size, image_size)
    scale = image_size / max(size)
    return whole, (max(1, round(width * scale)), max(1, round(height * scale)))


def _shrink_while_decoding(image: Image.Image, box, size) -> tuple[float, ...]:
    """Let the JPEG decoder drop what the filter would average away; the box in the smaller picture."""
    full = image.size
    # How far the kept part is reduced on each side, spelt as the size that Pillow divides by.
    wanted = tuple(
        max(1, int(SPARE_SCALE * whole * new / (end - start)))
        for whole, new, start, end in zip(full, size, box[:2], box[2:], strict=True)
    )
    if image.format in ("JPEG", "MPO"):
        image.draft(None, wanted)
    scales = (image.width / full[0], image.height / full[1]) * 2
    return tuple(edge * scale for edge, scale in zip(box, scales, strict=True))


def _simplify(image: Image.Image, notes: list[str]) -> Image.Image:
    """In a mode that can be resized without harm: L, RGB, CMYK, or what `_finish` knows."""
    if _is_transparent(image):
        notes.append("transparent, put over white")
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, (*_WHITE, 255))
        return Image.alpha_composite(white, pixels).convert("RGB")
    if image.mode[0] in "IF":  # I;16 of a 16-bit greyscale PNG, I and F of a TIFF
        notes.append("16 bits or more a pixel, reduced to 8")
        return Image.fromarray(_reduce_depth(np.asarray(image)))
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("RGB")  # palettes, black and white, YCbCr, LAB


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


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


def _resize(image: Image.Image, box, size: tuple[int, int]) -> Image.Image:
    whole = (0, 0, *image.size)
    if image.size == size and tuple(box) == whole:
        return image
    shrinks = size[0] <= box[2] - box[0] and size[1] <= box[3] - box[1]
    # Hamming's filter shrinks as well as the bicubic one (Pillow's handbook, "Filters comparison")
    # in six tenths of its time; enlarging, it shows steps.
    filter = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    return image.resize(size, filter, box=box, reducing_gap=SPARE_SCALE)


def _finish(image: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """To RGB as a screen shows it; done on the few pixels that are left, where it costs little."""
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
    """The way from a profile to sRGB and the profile's name; None if it is sRGB or fits not."""
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = (known.profile.profile_description or "unnamed").strip()
        if "srgb" in name.lower():
            return None, name
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(known, srgb, mode, "RGB"), name
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, ""  # a damaged profile is no reason to lose the photo


def _pad(image: Image.Image, image_size: int) -> Image.Image:
    square = Image.new("RGB", (image_size, image_size))
    left, top = ((image_size - side) // 2 for side in image.size)
    square.paste(image, (left, top))
    return square


def _take_bytes(file) -> bytes:
    file.seek(0)
    return file.read()


def _encode(image: Image.Image) -> bytes:
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()
