"""JPEGs to pixels, by simplejpeg, else by OpenCV, else by Pillow: all three give the same.

What the faster two refuse, or would decode to other pixels, Pillow decodes: CMYK, rare samplings,
JPEGs with damage inside. It refuses those that are cut off. TensorFlow's pixels differ from these, by 1
of 255 on average.
"""

import contextlib
import functools
import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Warnings of libjpeg (jerror.h) about the picture itself; others are about what stands before it.
_NO_END = "Premature end of JPEG file"
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (premature|bad (?!ICC)|found|\d+ extraneous bytes before marker 0x(d|c4|da))"
)
_EXTRA = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


class Decoder(NamedTuple):
    """A library that decodes JPEGs; `read_size` and `decode` raise ValueError where it does not."""

    name: str
    read_size: Callable[[bytes], tuple[int, int]]  # height and width
    decode: Callable[[bytes, np.ndarray], None]  # into pixels of that size


def decode_jpeg(jpeg: bytes, out: np.ndarray | None = None) -> np.ndarray:
    """The pixels of a JPEG, (height, width, 3) uint8 in RGB; decoded into `out` where it is given.

    Raises ValueError for what is no JPEG, cannot be decoded, or is not of the size of `out`.
    """
    if not jpeg.startswith(_START):
        raise ValueError(f"not a JPEG ({len(jpeg)} bytes)")
    try:
        return _decode(find_decoder(), jpeg, out)
    except ValueError:
        return _decode(_load_pillow(), complete_jpeg(jpeg), out)


def complete_jpeg(jpeg: bytes) -> bytes:
    """The JPEG, with its end mark where nothing else is missing, as far as simplejpeg can tell."""
    if not jpeg.endswith(_END):
        with contextlib.suppress(ValueError):
            if decode_strictly(jpeg) is not None:
                return _add_end(jpeg)
    return jpeg


def decode_strictly(
    jpeg: bytes, mode: str = "RGB", size: tuple[int, int] = (0, 0)
) -> np.ndarray | None:
    """The pixels (h, w, 1 or 3) uint8 of a JPEG, if each of them is as it was saved; else ValueError.

    Decoded in `mode`, "RGB" or "GRAY", at the smallest scale that gives at least `size`, (height,
    width) in px, and at full size without it. An end mark may be missing. None where nothing can be
    said: without simplejpeg, for kinds that it does not read, and for padding before the end.
    """
    try:
        import simplejpeg
    except ImportError:
        return None

    def decode(jpeg):
        return simplejpeg.decode_jpeg(jpeg, mode, min_height=size[0], min_width=size[1])

    try:
        return decode(jpeg)
    except ValueError as error:
        message = str(error)
    if message.startswith(_NO_END):
        try:
            return decode(_add_end(jpeg))
        except ValueError:
            raise ValueError(f"cut off ({len(jpeg):,} bytes are there)") from None
    if _DAMAGE.match(message) and not _is_padded(jpeg, message):
        raise ValueError(f"damaged ({message}), so that parts of the picture are wrong")
    return None


def _add_end(jpeg: bytes) -> bytes:
    """With an end mark after the last byte; zeros there are what a disk or a download left empty."""
    return jpeg.rstrip(b"\0").removesuffix(b"\xff") + _END


def _is_padded(jpeg: bytes, message: str) -> bool:
    """Whether the bytes that are too many are one byte again and again, as some cameras write them."""
    if not (match := _EXTRA.search(message)):
        return False
    picture = jpeg[: jpeg.rfind(_END)]
    padding = len(picture) - len(picture.rstrip(picture[-1:]))
    # Zeros where the picture should be are more than these.
    return abs(padding - int(match[1])) <= 2


def check_jpeg(jpeg: bytes, image_size: int, *, decode: bool) -> None:
    """Raise ValueError for what is not a JPEG of image_size x image_size px.

    Without `decode` it is decoded only if its size or its end is not found, which may be no fault:
    headers may be long, and something may follow the end.
    """
    size = image_size, image_size
    with contextlib.suppress(ValueError):
        if not decode and jpeg.endswith(_END) and find_decoder().read_size(jpeg) == size:
            return
    decode_jpeg(jpeg, np.empty((*size, 3), "uint8"))


def _decode(decoder: Decoder, jpeg: bytes, out: np.ndarray | None) -> np.ndarray:
    size = decoder.read_size(jpeg)
    if out is None:
        out = np.empty((*size, 3), "uint8")
    elif out.shape[:2] != size:
        height, width, _ = out.shape
        raise ValueError(f"wrong size (got {size[0]}x{size[1]}, expected {height}x{width})")
    decoder.decode(jpeg, out)
    return out


@functools.cache
def find_decoder() -> Decoder:
    """The fastest decoder that is installed."""
    for load in (_load_simplejpeg, _load_opencv):
        try:
            return load()
        except ImportError:
            pass
    return _load_pillow()


def _load_simplejpeg() -> Decoder:
    import simplejpeg

    def read_size(jpeg):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
        if colours not in ("YCbCr", "Gray", "RGB"):  # CMYK is converted in another way
            raise ValueError("left to Pillow")
        return height, width

    def decode(jpeg, out):
        simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out)

    return Decoder("simplejpeg", read_size, decode)


def _load_opencv() -> Decoder:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def read_size(jpeg):
        image = _open(jpeg)
        # Some versions make grey of what is cut off.
        if image.mode == "CMYK" or not jpeg.endswith(_END):
            raise ValueError("left to Pillow")
        return image.size[::-1]

    def decode(jpeg, out):
        try:
            cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, "uint8"), flags), cv2.COLOR_BGR2RGB, out)
        except cv2.error:  # imdecode returns None
            raise ValueError("left to Pillow") from None

    return Decoder("OpenCV", read_size, decode)


@functools.cache
def _load_pillow() -> Decoder:
    def decode(jpeg, out):
        try:
            out[...] = np.asarray(_open(jpeg).convert("RGB"))
        except Exception:  # decoders raise errors of any class
            raise ValueError(f"undecodable JPEG ({len(jpeg)} bytes)") from None

    return Decoder("Pillow", lambda jpeg: _open(jpeg).size[::-1], decode)


def _open(jpeg: bytes):
    from PIL import Image

    try:
        return Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    except Exception:
        raise ValueError(f"undecodable JPEG ({len(jpeg)} bytes)") from None
