"""A contact sheet of pairs that show one picture, so that a person can judge them."""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from flowerkit.data.leaks import DuplicatePair, Place
from flowerkit.data.tfrecords import parse_example
from flowerkit.files import replacing

_SIDE_PX, _GAP_PX, _TEXT_PX = 160, 14, 44
_COLUMNS = 4


def draw_pairs(
    path: str | os.PathLike, pairs: Sequence[DuplicatePair], *, max_pairs: int = 60
) -> int:
    """Write the first `max_pairs` pairs side by side as a PNG; how many were drawn.

    Under each pair: what it is, its splits and labels. Nothing is written for no pairs. Raises
    OSError where a shard has gone.
    """
    pairs = pairs[:max_pairs]
    if not pairs:
        return 0
    rows, columns = -(-len(pairs) // _COLUMNS), min(_COLUMNS, len(pairs))
    width, height = 2 * _SIDE_PX + _GAP_PX, _SIDE_PX + _TEXT_PX
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, pair in enumerate(pairs):
        left, top = number % _COLUMNS * width, number // _COLUMNS * height
        for side, place in enumerate((pair.one, pair.other)):
            sheet.paste(_read_picture(place), (left + side * _SIDE_PX, top))
        ink = "firebrick" if pair.has_two_labels else "black"
        ImageDraw.Draw(sheet).multiline_text((left, top + _SIDE_PX + 2), _tell(pair), fill=ink)
    with replacing(path) as temporary:
        sheet.save(temporary)
    return len(pairs)


def _tell(pair: DuplicatePair) -> str:
    near = f", {pair.distance} bits, {pair.similarity:.3f}" if pair.kind == "near duplicate" else ""
    lines = [f"{pair.kind}{near}"]
    for place in (pair.one, pair.other):
        label = "" if place.label is None else f", label {place.label}"
        lines.append(f"{place.split} {place.file.name.split('-')[0]}/{place.record}{label}")
    return "\n".join(lines)


def _read_picture(place: Place) -> Image.Image:
    import tensorflow as tf

    # Skipping is C++; records.read_records computes each checksum on the way in Python.
    (serialized,) = tf.data.TFRecordDataset(str(place.file)).skip(place.record).take(1)
    jpeg = parse_example(serialized, labelled=False)[0].numpy()
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    return Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
