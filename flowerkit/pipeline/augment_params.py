"""What augmentation draws: a table of numbers, a row an image, and what they mean in pixels.

The table is a function of (seed, epoch) and the picture a function of (pixels, row), so that every
device, every number of replicas and every resumed run shows the same pictures.
"""

import numpy as np

from flowerkit.pipeline.augmentation import Augmentation

_EDGES = ("top", "left", "bottom", "right")
# What a row holds where nothing is drawn. Edges and shifts are fractions of the side, measured from
# the top left; mixup is the image's own share. Every value leaves the picture as it is.
_UNCHANGED = {
    "flip": 0.0,
    **dict(zip((f"crop_{edge}" for edge in _EDGES), (0.0, 0.0, 1.0, 1.0), strict=True)),
    "shift_right": 0.0,
    "shift_down": 0.0,
    "zoom": 1.0,
    "rotation_degrees": 0.0,
    "shear_degrees": 0.0,
    "brightness": 0.0,
    "contrast": 1.0,
    **{f"block_{edge}": 0.0 for edge in _EDGES},
    "mixup": 1.0,
    **{f"cutmix_{edge}": 0.0 for edge in _EDGES},
}
PARAMS = tuple(_UNCHANGED)
_PLACES = {name: place for place, name in enumerate(PARAMS)}

# Every change has random numbers of its own, so that switching one on leaves the others' draws
# alone. The order of the images has stream 0 (`pipeline.epoch_permutation`).
_STREAMS = {
    "flip": 1,
    "crop": 2,
    "shift": 3,
    "zoom": 4,
    "rotation": 5,
    "shear": 6,
    "brightness": 7,
    "contrast": 8,
    "block": 9,
    "mixup": 10,
    "cutmix": 11,
    "cutmix_area": 12,
    "which_mixing": 13,
}

ERASED_GREY = 128  # what a blocked-out pixel shows, the middle of 0..255
_CROP_ASPECTS = (4 / 5, 5 / 4)
_BLOCK_AREAS = (0.02, 0.2)
_BLOCK_ASPECTS = (1 / 2, 2.0)
# Edges are whole multiples of 1/4096 of the side: their products with a side of up to 4096 px are
# exact in float32, so that fused arithmetic on a device rounds no edge to another pixel than NumPy.
_GRID = 4096


def random_stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on these three alone, on every machine and after every resume."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, stream))))


def sample_params(
    augmentation: Augmentation, num_images: int, *, seed: int, epoch: int
) -> np.ndarray:
    """What happens to each image in `epoch`: (num_images, len(PARAMS)) float32, a row an image.

    Row i depends on the seed, the epoch and i alone. `PARAMS` names the columns.

    >>> draws = sample_params(Augmentation(), 4, seed=1, epoch=2)
    >>> column(draws, "flip")
    array([0., 1., 0., 0.], dtype=float32)
    """
    params = np.tile(np.array(list(_UNCHANGED.values()), "float32"), (num_images, 1))

    def stream_of(name):
        return random_stream(seed, epoch, _STREAMS[name])

    def put(name, values):
        params[:, _PLACES[name]] = values

    if augmentation.flip:
        put("flip", stream_of("flip").random(num_images) < 0.5)
    if augmentation.min_crop_area < 1:
        _put_box(params, "crop", _draw_crops(stream_of("crop"), num_images, augmentation))
    for name, values in _draw_amounts(augmentation, num_images, stream_of):
        put(name, values)
    if augmentation.random_erasing > 0:
        _put_box(params, "block", _draw_blocks(stream_of("block"), num_images, augmentation))
    if augmentation.mixes:
        shares, boxes = _draw_mixing(augmentation, num_images, stream_of)
        put("mixup", shares)
        _put_box(params, "cutmix", boxes)
    return params


def _draw_amounts(augmentation, num_images, stream_of):
    """The changes that are one number each: (column, values (num_images,)), where they are on."""
    if augmentation.max_shift > 0:
        both = _symmetric(stream_of("shift").random((num_images, 2))) * augmentation.max_shift
        yield "shift_right", both[:, 0]
        yield "shift_down", both[:, 1]
    if augmentation.max_zoom > 1:
        yield "zoom", augmentation.max_zoom ** _symmetric(stream_of("zoom").random(num_images))
    for column_name, stream, most in (
        ("rotation_degrees", "rotation", augmentation.max_rotation_degrees),
        ("shear_degrees", "shear", augmentation.max_shear_degrees),
        ("brightness", "brightness", augmentation.max_brightness),
    ):
        if most > 0:
            yield column_name, most * _symmetric(stream_of(stream).random(num_images))
    if augmentation.max_contrast > 0:
        gains = augmentation.max_contrast * _symmetric(stream_of("contrast").random(num_images))
        yield "contrast", 1 + gains


def _symmetric(uniform: np.ndarray) -> np.ndarray:
    return 2 * uniform - 1


def _draw_crops(generator, num_images: int, augmentation: Augmentation):
    area, aspect, row, col = generator.random((num_images, 4)).T
    area = augmentation.min_crop_area + area * (1 - augmentation.min_crop_area)
    # A crop of nearly everything has room for little more than the picture's own aspect.
    lowest = np.log(np.maximum(_CROP_ASPECTS[0], area))
    highest = np.log(np.minimum(_CROP_ASPECTS[1], 1 / area))
    return _place(area, np.exp(lowest + aspect * (highest - lowest)), row, col)


def _draw_blocks(generator, num_images: int, augmentation: Augmentation):
    present, area, aspect, row, col = generator.random((num_images, 5)).T
    area = _BLOCK_AREAS[0] + area * (_BLOCK_AREAS[1] - _BLOCK_AREAS[0])
    lowest, highest = np.log(_BLOCK_ASPECTS)
    boxes = _place(area, np.exp(lowest + aspect * (highest - lowest)), row, col)
    return [np.where(present < augmentation.random_erasing, edge, 0) for edge in boxes]


def _place(area, aspect, row, col):
    """Boxes of these areas and aspects (width / height); row and col in 0..1 say where there is room."""
    height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
    top, left = row * (1 - height), col * (1 - width)
    return top, left, top + height, left + width


def _draw_mixing(augmentation: Augmentation, num_images: int, stream_of):
    """The own share of each image for mixup, (num_images,), and the edges of each box for cutmix."""
    is_cut = np.full(num_images, augmentation.cutmix > 0)
    if augmentation.mixup > 0 and augmentation.cutmix > 0:
        is_cut = stream_of("which_mixing").random(num_images) < 0.5
    shares, boxes = np.ones(num_images), np.zeros((4, num_images))
    if augmentation.mixup > 0:
        shares = stream_of("mixup").beta(augmentation.mixup, augmentation.mixup, num_images)
    if augmentation.cutmix > 0:
        areas = 1 - stream_of("cutmix_area").beta(
            augmentation.cutmix, augmentation.cutmix, num_images
        )
        boxes = _place_around(areas, *stream_of("cutmix").random((num_images, 2)).T)
    return np.where(is_cut, 1, shares), [np.where(is_cut, edge, 0) for edge in boxes]


def _place_around(area, row, col):
    """Squares of these areas around (row, col), points anywhere, cut off at the picture's edges."""
    half = np.sqrt(area) / 2
    return [np.clip(edge, 0, 1) for edge in (row - half, col - half, row + half, col + half)]


def _put_box(params: np.ndarray, name: str, edges) -> None:
    for edge_name, edge in zip(_EDGES, edges, strict=True):
        params[:, _PLACES[f"{name}_{edge_name}"]] = np.round(np.clip(edge, 0, 1) * _GRID) / _GRID


def column(params, name: str):
    """One column of a table of draws, (n,); NumPy or a backend's tensor, as the table is."""
    return params[:, _PLACES[name]]


def find_box(params, name: str, side: int, ops=np) -> tuple:
    """The box "crop", "block" or "cutmix" in px: top, left, bottom, right, (n,) whole float32.

    A crop keeps at least one pixel; the others may be empty. `ops`: numpy or keras.ops.
    """
    edges = [ops.floor(column(params, f"{name}_{edge}") * side + 0.5) for edge in _EDGES]
    if name == "crop":
        edges[:2] = [ops.minimum(edge, side - 1.0) for edge in edges[:2]]
        edges[2:] = [ops.maximum(edges[2], edges[0] + 1.0), ops.maximum(edges[3], edges[1] + 1.0)]
    return tuple(edges)


def find_maps(params, side: int, ops=np) -> tuple:
    """Where each pixel of the new picture comes from: ((xx, xy, x0), (yx, yy, y0)), each (n,) float32.

    Pixel (column j, row i) shows column xx j + xy i + x0 and row yx j + yy i + y0 of the old picture,
    counted from pixel centres. As seen on the picture, in this order: crop, flip, shear (the top to
    the right), rotation (counter-clockwise), zoom, shift (right and down).
    """
    top, left, bottom, right = find_box(params, "crop", side, ops)
    angle = column(params, "rotation_degrees") * (np.pi / 180)
    cos, sin = ops.cos(angle), ops.sin(angle)
    lean = ops.tan(column(params, "shear_degrees") * (np.pi / 180))
    zoom = column(params, "zoom")
    across = (1 - 2 * column(params, "flip")) * (right - left) / side / zoom
    along = (bottom - top) / side / zoom
    xx, xy = across * (cos + lean * sin), across * (lean * cos - sin)
    yx, yy = along * sin, along * cos
    centre_x = (side - 1) / 2 + column(params, "shift_right") * side
    centre_y = (side - 1) / 2 + column(params, "shift_down") * side
    x0 = (left + right - 1) / 2 - xx * centre_x - xy * centre_y
    y0 = (top + bottom - 1) / 2 - yx * centre_x - yy * centre_y
    return (xx, xy, x0), (yx, yy, y0)


def check_pairs(per_replica_batch: int) -> None:
    """Raise ValueError unless a batch of this size falls into pairs of neighbours."""
    if per_replica_batch % 2:
        raise ValueError(
            f"mixup and cutmix pair neighbours: per_replica_batch must be even. "
            f"Received: {per_replica_batch}"
        )


def mix_labels(
    labels: np.ndarray,
    params: np.ndarray,
    augmentation: Augmentation,
    *,
    num_classes: int,
    image_size: int,
) -> np.ndarray:
    """Labels (n,) int of one batch as shares, (n, num_classes) float32; rows sum to 1.

    Rows 2k and 2k+1 are partners and mix as row 2k has drawn. The shares are those of the pixels that
    images of `image_size` px show: the area of cutmix's box is counted in painted pixels.
    Raises ValueError for an odd number of images, if images mix.
    """
    shares = np.zeros((len(labels), num_classes), "float32")
    shares[np.arange(len(labels)), labels] = 1
    if not augmentation.mixes:
        return shares
    check_pairs(len(labels))
    firsts = params[::2]
    top, left, bottom, right = find_box(firsts, "cutmix", image_size)
    kept = 1 - (bottom - top) * (right - left) / image_size**2
    own = (column(firsts, "mixup") * kept).astype("float32")[:, None, None]
    pairs = shares.reshape(-1, 2, num_classes)
    return (own * pairs + (1 - own) * pairs[:, ::-1]).reshape(shares.shape)
