"""Drawn flowers in the competition's layout, so that everything runs anywhere.

A species is a pure function of its number. Four species in a row are a genus: one form, one ground,
two pairs. A pair shares its marking; a similar colour and the number of petals distinguish its two. So a
small network learns the genera at once, the pairs slowly, and its confusions look plausible.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image

from flowerkit.console import Progress, shows_progress
from flowerkit.data import SPLITS, FlowerData, Record, choose_shard_size, find_shards, write_shards
from flowerkit.files import replacing, write_json, write_text
from flowerkit.sources.painting import GROUNDS, MARKS, Form, Species, paint_flower

JPEG_QUALITY = 92
NUM_SPECIES = 104

FORMS = (
    Form("daisy", (13, 21), 1, 0.15, 0.6, 0.35, centre="disc"),
    Form("primrose", (5, 6), 1, 0.52, 0.9, 0.3, notch=0.2),
    Form("lily", (6, 5), 1, 0.27, 0.75, 0.85, cup=0.2, centre="stamens"),
    Form("poppy", (4, 5), 1, 0.8, 0.5, 0.28, frill=0.03, cup=0.3, centre="stamens"),
    Form("dahlia", (12, 16), 4, 0.24, 0.7, 0.65, cup=0.15),
    Form("cosmos", (8, 7), 1, 0.37, 0.9, 0.2, frill=0.05, centre="disc"),
    Form("rose", (5, 6), 4, 0.72, 0.4, 0.35, cup=0.35),
    Form("periwinkle", (5, 4), 1, 0.42, 0.9, 0.3, curl=0.45),
    Form("aster", (28, 40), 1, 0.06, 0.4, 0.35, centre="disc"),
    Form("phlox", (4, 5), 1, 0.55, 0.7, 0.45, heads=10),
    Form("carnation", (9, 7), 3, 0.46, 0.9, 0.12, frill=0.1, cup=0.2, centre="none"),
    Form("crocus", (6, 4), 2, 0.4, 0.5, 0.5, cup=0.9, centre="stamens"),
    Form("pansy", (5, 4), 1, 0.66, 0.55, 0.3, lopsided=0.3, centre="button"),
)
COLOURS = {  # in the order of hue: neighbours are easily confused
    "white": (246, 244, 240),
    "cream": (250, 236, 190),
    "lemon": (250, 230, 80),
    "golden": (248, 190, 30),
    "orange": (242, 132, 28),
    "coral": (244, 120, 96),
    "scarlet": (222, 44, 30),
    "crimson": (170, 18, 44),
    "wine": (112, 20, 60),
    "cherry": (222, 40, 110),
    "rose": (240, 130, 170),
    "blush": (248, 200, 212),
    "orchid": (206, 100, 200),
    "violet": (128, 60, 180),
    "indigo": (74, 62, 170),
    "blue": (70, 110, 220),
    "azure": (150, 190, 244),
}
SEED_COLOURS = ((236, 190, 40), (120, 74, 30), (60, 34, 30), (206, 210, 90), (230, 130, 30))


def species(k: int) -> Species:
    """The drawn species number `k`, 0 to 103, the same in every process; ValueError for another.

    >>> species(0).name, species(1).name, species(4).name
    ('white daisy', 'cream daisy', 'coral primrose')
    """
    if not 0 <= k < NUM_SPECIES:
        raise ValueError(f"there are {NUM_SPECIES} drawn species, from 0. Received: k={k}")
    genus, member = divmod(k, 4)
    pair, second = divmod(member, 2)
    form, prefix, shift = FORMS[genus % len(FORMS)], "", 0
    if genus >= len(FORMS):  # a relative of the first genus of this form
        rng = np.random.default_rng((7, genus))
        centre = ("cone", "stamens", "disc", "button")[int(rng.integers(4))]
        form = form._replace(
            width=form.width * float(rng.choice((0.7, 1.3))),
            layers=form.layers + (form.heads == 1) if form.layers < 3 else 2,
            cup=form.cup + float(rng.choice((-0.4, 0.0, 0.3))),
            centre=form.centre if form.layers > 2 else centre,
        )
        prefix, shift = "garden ", 3
    names = list(COLOURS)
    colour = (5 * genus + 8 * pair + second) % len(names)
    return Species(
        name=f"{names[colour]} {prefix}{form.name}",
        form=form,
        petals=form.petals[second],
        colour=COLOURS[names[colour]],
        second_colour=COLOURS[names[(colour - second + (6, 11)[pair]) % len(names)]],
        mark=MARKS[(genus + 2 * pair) % len(MARKS)],
        centre_colour=SEED_COLOURS[(genus + pair) % len(SEED_COLOURS)],
        ground=tuple(GROUNDS)[(genus + shift) % len(GROUNDS)],
    )


def draw_flower(k: int, *, size: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """A picture of species `k`: (size, size, 3) uint8. Same arguments, same bytes.

    Pose, light, scale and clutter come from `seed`, a number or several. Raises ValueError for an
    unknown `k`, a negative seed, or a size below 8.
    """
    kind = species(k)
    seeds = seed if isinstance(seed, tuple) else (seed,)
    _check_picture(size, *seeds)
    return paint_flower(kind, size=size, rng=np.random.default_rng((k, *seeds)))


def _check_picture(size: int, *seeds: int) -> None:
    if size < 8 or min(seeds) < 0:
        raise ValueError(f"size={size} must be 8 or more, and seed={min(seeds)} 0 or more.")


@shows_progress
def draw_competition(
    folder: str | os.PathLike,
    *,
    num_classes: int = 104,
    image_size: int = 224,
    num_train: int,
    num_val: int,
    num_test: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> FlowerData:
    """Draw a competition into `folder`: shards, `classes.json` and `sample_submission.csv`.

    Every split holds every class, unevenly as in the competition; test records hold no labels, and
    a split of 0 pictures is left out. Same arguments, same bytes.

    Raises ValueError for fewer pictures than classes, and FileExistsError if `folder` holds shards.
    """
    folder = Path(folder)
    counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    _check_picture(image_size, seed)
    if not 2 <= num_classes <= NUM_SPECIES:
        raise ValueError(f"num_classes must be 2 to {NUM_SPECIES}. Received: {num_classes}")
    names = tuple(species(k).name for k in range(num_classes))
    for split, count in counts.items():
        if count < num_classes and (count or split == "train"):
            raise ValueError(
                f"num_{split}={count} pictures cannot show each of {num_classes} classes. "
                f"Pass num_{split}={num_classes} or more."
            )
    if present := sorted(path.name for path in folder.glob("tfrecords-jpeg-*")):
        raise FileExistsError(
            f"{folder} already holds {present[0]}/. Draw into a new folder, or remove that one."
        )
    write_json(folder / "classes.json", list(names))
    rows = "".join(f"{name},0\n" for name in _picture_ids("test", counts, seed))
    write_text(folder / "sample_submission.csv", "id,label\n" + rows)
    for split, count in counts.items():
        labels = np.repeat(np.arange(num_classes), _class_counts(count, num_classes, seed))
        np.random.default_rng((11, seed, SPLITS.index(split))).shuffle(labels)
        ids = _picture_ids(split, counts, seed)
        records = _draw_records(split, labels.tolist(), ids, image_size, seed, progress)
        shard_size = choose_shard_size(count)
        write_shards(folder, split, records, image_size=image_size, shard_size=shard_size)
    return find_shards(folder, image_size=image_size, class_names=names, origin="drawn")


def _draw_records(split, labels, ids, image_size, seed, progress) -> Iterator[Record]:
    for i, (label, id) in enumerate(zip(labels, ids, strict=True)):
        pixels = draw_flower(label, size=image_size, seed=(seed, SPLITS.index(split), i))
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=JPEG_QUALITY)
        yield Record(image=jpeg.getvalue(), id=id, label=None if split == "test" else label)
        progress(f"drawing {split}", i + 1, len(labels))


def _class_counts(num_pictures: int, num_classes: int, seed: int) -> np.ndarray:
    """Pictures per class, each at least 1: log-normal, the same classes are frequent in every split."""
    if num_pictures == 0:
        return np.zeros(num_classes, int)
    quantiles = (np.arange(num_classes) + 0.5) / num_classes
    weights = np.exp([0.6 * NormalDist().inv_cdf(float(q)) for q in quantiles])
    np.random.default_rng((13, seed)).shuffle(weights)
    shares = (num_pictures - num_classes) * weights / weights.sum()
    counts = 1 + shares.astype(int)
    counts[np.argsort(shares.astype(int) - shares)[: num_pictures - counts.sum()]] += 1
    return counts


def _picture_ids(split: str, counts: dict[str, int], seed: int) -> Iterator[str]:
    """Ids of 9 hex characters: running numbers scattered by an odd factor, hence never twice."""
    first = sum(counts[before] for before in SPLITS[: SPLITS.index(split)])
    for number in range(first, first + counts[split]):
        yield f"{(number * 0x9E3779B97 + seed * 0x51ED27 + 0x1F0E) % 16**9:09x}"


@shows_progress
def draw_photos(
    folder: str | os.PathLike,
    *,
    num_classes: int = 5,
    photos_per_class: int = 40,
    image_size: int = 224,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Draw a folder of photos, a sub folder for each species, and return it.

    JPEG files, four by three and `image_size` px on the longer side, every third upright. Same
    arguments, same bytes. Raises FileExistsError if `folder` holds anything.
    """
    folder = Path(folder)
    _check_picture(image_size, seed)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Draw into a new folder.")
    margin, total = image_size // 8, num_classes * photos_per_class
    for label, name in enumerate([species(k).name for k in range(num_classes)]):
        for number in range(1, photos_per_class + 1):
            pixels = draw_flower(label, size=image_size, seed=(seed, len(SPLITS), number))
            upright = number % 3 == 0
            photo = pixels[:, margin:-margin] if upright else pixels[margin:-margin]
            with replacing(folder / name / f"{number:03}.jpg") as temporary:
                image = Image.fromarray(np.ascontiguousarray(photo))
                image.save(temporary, "JPEG", quality=JPEG_QUALITY)
            progress("drawing photos", label * photos_per_class + number, total)
    return folder
