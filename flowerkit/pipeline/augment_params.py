"""What happens to each image in an epoch: a table of augmentation parameters, a row an image.

The table is a function of (seed, epoch) and the picture a function of (pixels, row), so that every
device, every number of replicas and every resumed run shows the same pictures.
"""

import numpy as np

from flowerkit.pipeline.augmentation import Augmentation

_EDGES = ("top", "left", "bottom", "right")
_MAP = ("xx", "xy", "x1", "yx", "yy", "y1", "wx", "wy", "w1")
# The values that leave a picture as it is. Edges are fractions of the side, from the top left; mixup
# is the image's own share. The map is projective: with u to the right and v down, from -1 to 1, the
# point (u, v) of the new picture shows (x/w, y/w) of the cropped old one, x = xx u + xy v + x1.
_UNCHANGED = {
    **dict(zip((f"crop_{edge}" for edge in _EDGES), (0.0, 0.0, 1.0, 1.0), strict=True)),
    **{f"map_{place}": float(place in ("xx", "yy", "w1")) for place in _MAP},
    "light_shift": 0.0,
    "light_gain": 1.0,
    **{f"erased_{edge}": 0.0 for edge in _EDGES},
    "mixup": 1.0,
    **{f"cutmix_{edge}": 0.0 for edge in _EDGES},
}
PARAMS = tuple(_UNCHANGED)

# Every change has random numbers of its own, so that switching it on leaves the other parameters
# alone. The order of the images has stream 0 (`batches.epoch_permutation`).
_STREAMS = {"flip": 1, "crop": 2, "vertical_flip": 3, "zoom": 4, "rotation": 5, "warp": 6}
_STREAMS |= {"lighting": 7, "erased": 9, "mixup": 10, "cutmix": 11, "cutmix_area": 12}
_STREAMS |= {"which_mixing": 13}

_CROP_ASPECTS = (4 / 5, 5 / 4)
_ERASED_AREAS = (0.02, 0.2)
_ERASED_ASPECTS = (1 / 2, 2.0)
# Edges are whole multiples of 1/4096 of the side: their products with a side of up to 4096 px are
# exact in float32, so that fused arithmetic on a device rounds no edge to another pixel than NumPy.
_GRID = 4096


def random_stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on these three alone, on every machine and after every resume."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, stream))))


def sample_params(
    augmentation: Augmentation, num_images: int, *, seed: int, epoch: int
) -> np.ndarray:
    """What happens to each image in `epoch`: (num_images, len(PARAMS)) float32, columns as in PARAMS.

    >>> params = sample_params(Augmentation(), 4, seed=1, epoch=2)
    >>> column(params, "map_xx")  # -1: mirrored
    array([ 1., -1.,  1.,  1.], dtype=float32)
    """
    params = np.tile(np.array(list(_UNCHANGED.values()), "float32"), (num_images, 1))

    def stream_of(name):
        return random_stream(seed, epoch, _STREAMS[name])

    def put(name, values):
        params[:, PARAMS.index(name)] = values

    def put_box(name, edges):
        for edge_name, edge in zip(_EDGES, edges, strict=True):
            put(f"{name}_{edge_name}", np.round(np.clip(edge, 0, 1) * _GRID) / _GRID)

    if augmentation.min_crop_area < 1:
        put_box("crop", _sample_crops(augmentation, num_images, stream_of))
    maps = _sample_maps(augmentation, num_images, stream_of)
    for place, values in zip(_MAP, maps.reshape(-1, 9).T, strict=True):
        put(f"map_{place}", values)
    if augmentation.max_lighting > 0:
        most = augmentation.max_lighting
        middle, gain = 2 * stream_of("lighting").random((num_images, 2)).T - 1
        put("light_shift", np.log1p(most * middle) - np.log1p(-most * middle))
        put("light_gain", (1 - most) ** gain)
    if augmentation.random_erasing > 0:
        put_box("erased", _sample_erased(augmentation, num_images, stream_of))
    if augmentation.mixes:
        shares, boxes = _sample_mixing(augmentation, num_images, stream_of)
        put("mixup", shares)
        put_box("cutmix", boxes)
    return params


def _sample_maps(augmentation: Augmentation, num_images: int, stream_of) -> np.ndarray:
    """(num_images, 3, 3) float64: on the picture a flip, then a rotation, a zoom and a tilt."""
    across, down = (
        np.where(stream_of(name).random(num_images) < 0.5, -1, 1)
        if getattr(augmentation, name)
        else np.ones(num_images)
        for name in ("flip", "vertical_flip")
    )
    maps = _stack_maps(across, 0, 0, 0, down, 0, 0, 0, 1)
    if augmentation.max_rotation_degrees > 0:
        turns = 2 * stream_of("rotation").random(num_images) - 1
        maps = maps @ make_rotations(augmentation.max_rotation_degrees * turns)
    if augmentation.max_zoom > 1:
        factor, right, down = stream_of("zoom").random((num_images, 3)).T
        factor = 1 + (augmentation.max_zoom - 1) * factor
        maps = maps @ make_zooms(factor, 2 * right - 1, 2 * down - 1)
    if augmentation.max_warp > 0:
        tilts = 2 * stream_of("warp").random((num_images, 2)).T - 1
        maps = maps @ make_warps(*(augmentation.max_warp * tilts))
    return maps


def _stack_maps(*entries) -> np.ndarray:
    """The maps (n, 3, 3) float64 whose nine entries, row after row, are numbers or arrays (n,)."""
    stacked = np.stack(np.broadcast_arrays(*entries), axis=-1)
    return stacked.reshape(-1, 3, 3).astype("float64")


def make_rotations(degrees: np.ndarray) -> np.ndarray:
    """The maps (n, 3, 3) that rotate pictures counter-clockwise by `degrees` (n,)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _stack_maps(cos, -sin, 0, sin, cos, 0, 0, 0, 1)


def make_zooms(factor: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The maps (n, 3, 3) that enlarge by `factor` around the point (right, down), -1..1; all (n,)."""
    scale = 1 / factor
    return _stack_maps(scale, 0, (1 - scale) * right, 0, scale, (1 - scale) * down, 0, 0, 1)


def make_warps(tilt_x: np.ndarray, tilt_y: np.ndarray) -> np.ndarray:
    """The maps (n, 3, 3) whose corners (u, v) show (u (1 - tilt_y v), v (1 - tilt_x u)); both (n,)."""
    shared = -tilt_x * tilt_y
    return _stack_maps(
        1 - tilt_y**2, shared, tilt_x, shared, 1 - tilt_x**2, tilt_y, tilt_x, tilt_y, 1
    )


def _sample_crops(augmentation: Augmentation, num_images: int, stream_of):
    area, aspect, row, col = stream_of("crop").random((num_images, 4)).T
    area = augmentation.min_crop_area + area * (1 - augmentation.min_crop_area)
    # A crop of nearly everything has room for little more than the picture's own aspect.
    lowest = np.log(np.maximum(_CROP_ASPECTS[0], area))
    highest = np.log(np.minimum(_CROP_ASPECTS[1], 1 / area))
    return _place(area, np.exp(lowest + aspect * (highest - lowest)), row, col)


def _sample_erased(augmentation: Augmentation, num_images: int, stream_of):
    present, area, aspect, row, col = stream_of("erased").random((num_images, 5)).T
    area = _ERASED_AREAS[0] + area * (_ERASED_AREAS[1] - _ERASED_AREAS[0])
    lowest, highest = np.log(_ERASED_ASPECTS)
    boxes = _place(area, np.exp(lowest + aspect * (highest - lowest)), row, col)
    return [np.where(present < augmentation.random_erasing, edge, 0) for edge in boxes]


def _place(area, aspect, row, col):
    """Boxes of these areas and aspects (width / height); row and col, 0..1, place them."""
    height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
    top, left = row * (1 - height), col * (1 - width)
    return top, left, top + height, left + width


def _sample_mixing(augmentation: Augmentation, num_images: int, stream_of):
    """The own share of each image for mixup, (num_images,), and the edges of each box for cutmix."""
    mixup, cutmix = augmentation.mixup, augmentation.cutmix
    is_cut = np.full(num_images, cutmix > 0)
    if mixup > 0 and cutmix > 0:
        is_cut = stream_of("which_mixing").random(num_images) < 0.5
    shares, boxes = np.ones(num_images), np.zeros((4, num_images))
    if mixup > 0:
        shares = stream_of("mixup").beta(mixup, mixup, num_images)
    if cutmix > 0:  # squares around points anywhere, cut off at the picture's edges
        half = np.sqrt(1 - stream_of("cutmix_area").beta(cutmix, cutmix, num_images)) / 2
        row, col = stream_of("cutmix").random((num_images, 2)).T
        boxes = row - half, col - half, row + half, col + half
    return np.where(is_cut, 1, shares), [np.where(is_cut, edge, 0) for edge in boxes]


def column(params, name: str):
    """A column of a table of parameters, (n,); NumPy or a backend's tensor, as the table is."""
    return params[:, PARAMS.index(name)]


def find_box(params, name: str, side: int, ops=np) -> tuple:
    """The box "crop", "erased" or "cutmix" in px: top, left, bottom, right, (n,) whole float32.

    A crop keeps at least one pixel; the others may be empty. `ops`: numpy or keras.ops.
    """
    edges = [ops.floor(column(params, f"{name}_{edge}") * side + 0.5) for edge in _EDGES]
    if name == "crop":
        edges[:2] = [ops.minimum(edge, side - 1.0) for edge in edges[:2]]
        edges[2:] = [ops.maximum(edges[2], edges[0] + 1.0), ops.maximum(edges[3], edges[1] + 1.0)]
    return tuple(edges)


def check_pairs(per_replica_batch: int) -> None:
    """Raise ValueError unless a batch of this size falls into pairs of neighbours."""
    if per_replica_batch % 2:
        raise ValueError(
            f"mixup and cutmix pair neighbours: per_replica_batch must be even "
            f"(--per-replica-batch). Received: {per_replica_batch}"
        )


def mix_labels(
    labels: np.ndarray,
    params: np.ndarray,
    augmentation: Augmentation,
    *,
    num_classes: int,
    image_size: int,
) -> np.ndarray:
    """Labels (n,) int of a batch as shares, (n, num_classes) float32; rows sum to 1.

    Rows 2k and 2k+1 are partners and mix by the parameters of row 2k. The area of cutmix's box is
    counted in the pixels that images of `image_size` px show. Raises ValueError for an odd number of
    images, if images mix.
    """
    shares = np.eye(num_classes, dtype="float32")[labels]
    if not augmentation.mixes:
        return shares
    check_pairs(len(labels))
    firsts = params[::2]
    top, left, bottom, right = find_box(firsts, "cutmix", image_size)
    kept = 1 - (bottom - top) * (right - left) / image_size**2
    own = (column(firsts, "mixup") * kept).astype("float32")[:, None, None]
    pairs = shares.reshape(-1, 2, num_classes)
    return (own * pairs + (1 - own) * pairs[:, ::-1]).reshape(shares.shape)
