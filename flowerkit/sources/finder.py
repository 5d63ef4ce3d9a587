"""One call for every kind of data: the competition, shards, a folder of photos, or drawn flowers."""

import contextlib
import importlib.util
import inspect
import logging
import os
import reprlib
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from flowerkit.data import FlowerData, find_ids, find_shards, find_sizes
from flowerkit.files import cache_folder, make_folder, near_path, parse_json, writing_to
from flowerkit.photos import (
    Folders,
    LabelsCsv,
    apply_decisions,
    find_photos,
    list_photos,
    load_conversion,
)
from flowerkit.sources import competition
from flowerkit.submission import read_ids, read_labels
from flowerkit.synonyms import explain_arguments
from flowerkit.text import join_some, pluralize

if TYPE_CHECKING:  # it loads NumPy
    from flowerkit.data import Split

# Enough for a small network to learn within minutes on two cores.
DRAWN_CLASSES = 12
DRAWN_SIZE_PX = 64
DRAWN_COUNTS = {"num_train": 960, "num_val": 240, "num_test": 240}
SAMPLE = "sample_submission.csv"
# By a file of each: what flowerkit writes with pictures in it, which are no photos.
OUTPUTS = {
    "plan.json": "a run folder",
    "compare.html": "a comparison",
    "lr_finder.json": "a range test",
}
PHOTO_SIZE_PX = 224  # what the backbones' ImageNet weights were trained at

_log = logging.getLogger("flowerkit")


@explain_arguments()
def find_data(
    source: str | os.PathLike = "auto",
    *,
    image_size: int | None = None,
    labels_csv: str | os.PathLike | LabelsCsv | None = None,
    label_pattern: str | None = None,
    decisions: str | os.PathLike | None = None,
    train: Folders = None,
    val: Folders = None,
    test: Folders = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> FlowerData:
    """The data that `source` names; `image_size` in px chooses among the sizes there are.

    "auto": the competition where it is mounted. On Kaggle nothing replaces it; elsewhere it is
    downloaded if kagglehub and a Kaggle token are there, and else flowers are drawn, with a
    warning in the log. "drawn": drawn flowers, kept in the user's cache. A folder of
    tfrecords-jpeg-SxS/: its class names are in its classes.json, else they are the competition's. A
    folder of photos, a sub folder a class: converted into the user's cache once, see `load_photos` for
    `labels_csv`, `label_pattern`, `train`, `val`, `test` and `progress`. `decisions`, a csv of
    `flowerkit clean`, changes labels of photos and of shards alike.

    Raises FileNotFoundError if the data or the size is not there, ValueError for a bad classes.json or
    photos that are not of two classes, RuntimeError if a download fails.
    """
    is_described = train or val or test or labels_csv or label_pattern
    folder = Path(source).expanduser()
    if source not in ("auto", "drawn") and (is_described or is_of_photos(folder)):
        from flowerkit.photos import load_photos

        return load_photos(
            folder,
            image_size=image_size or PHOTO_SIZE_PX,
            labels_csv=labels_csv,
            label_pattern=label_pattern,
            decisions=decisions,
            train=train,
            val=val,
            test=test,
            progress=progress,
        )
    if is_described:
        raise ValueError(
            "labels and splits (--labels, --label-pattern, --train, --val, --test) are for a folder of "
            f"photos. Received: {str(source)!r}. Pass that folder (--data PHOTOS)."
        )
    data = _find_shards(source, image_size)
    return apply_decisions(data, decisions) if decisions else data


def _find_shards(source: str | os.PathLike, image_size: int | None) -> FlowerData:
    folder = Path(source).expanduser()
    if source == "auto":
        return _find_auto(image_size)
    if source == "drawn":
        return _find_drawn(image_size)
    if not folder.exists() and folder.parent.resolve() == cache_folder().resolve():
        raise FileNotFoundError(
            f"the converted photos in {folder} were cleared from the cache. Pass the folder of the "
            "photos (--data PHOTOS), which is then converted again."
        )
    # As other tools want it: photos/train, where the folder of photos has no splits.
    above = next((each for each in folder.parents if each.exists()), Path())
    if not (folder.exists() or folder.is_absolute() or above == Path()) and is_of_photos(above):
        raise FileNotFoundError(
            f"no folder {folder}.{near_path(folder) or f' Did you mean {above}?'}"
        )
    names = _read_class_names(folder)
    return find_shards(folder, image_size=image_size, class_names=names, origin="folder")


def check_source(
    source: str | os.PathLike, *, image_size: int | None = None, **photo_options
) -> None:
    """Raise at once what `find_data` would raise of a folder: its photos are listed, not converted.

    `photo_options` are those of `find_data`. What would be downloaded or drawn is not looked for.
    """
    folder, decisions = Path(source).expanduser(), photo_options.pop("decisions", None)
    if source == "drawn" or (source == "auto" and not is_competition_required()):
        return
    if source != "auto" and (any(photo_options.values()) or is_of_photos(folder)):
        list_photos(folder, photo_options.pop("labels_csv", None), **photo_options)
    else:
        find_data(source, image_size=image_size, decisions=decisions, **photo_options)


def is_of_photos(folder: Path) -> bool:
    """Whether `folder` holds photos, of which the pictures of `OUTPUTS` are none, and no shards."""
    # A folder above the data may hold other pictures: it is an error, and not photos.
    if find_sizes(folder) or any(folder.glob("*/tfrecords-jpeg-*")) or find_output(folder):
        return False
    return any(
        not any(find_output(folder / above) for above in Path(path).parents)
        for path in find_photos(folder)
    )


def find_output(folder: Path) -> str | None:
    """Which of `OUTPUTS` a folder is; None for any other."""
    return next((kind for file, kind in OUTPUTS.items() if (folder / file).is_file()), None)


def is_competition_required() -> bool:
    """Whether "auto" accepts nothing but the competition: on Kaggle, and where it is mounted."""
    return bool(os.environ.get("KAGGLE_KERNEL_RUN_TYPE")) or any(
        map(find_sizes, competition.MOUNTS)
    )


def _find_auto(image_size: int | None) -> FlowerData:
    # A competitor's run must never train on drawn flowers by accident.
    if is_competition_required():
        return competition.find_competition(image_size=image_size)
    if importlib.util.find_spec("kagglehub") and competition.has_kaggle_token():
        return competition.download_competition(image_size=image_size)
    data = _find_drawn(image_size)
    _log.warning(
        "no folder was given (--data) and no competition data are here, so this is about %s. Pass the "
        "folder of your data, or install kagglehub and save a Kaggle token.",
        data,
    )
    return data


def _find_drawn(image_size: int | None) -> FlowerData:
    # Imported here: finding data that exists needs neither Pillow nor NumPy.
    from flowerkit.sources import painting, synthetic

    size = image_size or DRAWN_SIZE_PX
    # The drawing code is part of the name, so that changed code never finds its old pictures.
    code = inspect.getsource(synthetic) + inspect.getsource(painting)
    version = sha256(code.encode()).hexdigest()[:8]
    folder = cache_folder() / f"drawn-{DRAWN_CLASSES}-classes-{size}-px-{version}"
    if not folder.is_dir():
        make_folder(folder.parent)
        with (
            writing_to(folder.parent),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".drawing-") as hidden,
        ):
            growing = Path(hidden) / folder.name
            synthetic.draw_competition(
                growing, num_classes=DRAWN_CLASSES, image_size=size, **DRAWN_COUNTS
            )
            with contextlib.suppress(OSError):  # another process drew the same pictures faster
                growing.replace(folder)
    names = _read_class_names(folder)
    return find_shards(folder, image_size=size, class_names=names, origin="drawn")


def _read_class_names(folder: Path) -> tuple[str, ...]:
    file = folder / "classes.json"
    if not file.exists():
        conversion = load_conversion(folder)
        return conversion.class_names if conversion else competition.CLASS_NAMES
    remedy = 'Write the names in the order of their ids, ["daisy", "rose"], or remove the file.'
    what = "a list of class names, all different"
    names = parse_json(file.read_bytes(), source=file, kind=list, what=what, remedy=remedy)
    if not names or not all(isinstance(n, str) and n for n in names) or len({*names}) < len(names):
        raise ValueError(f"{file} must hold {what}, not {reprlib.repr(names)}. {remedy}")
    return tuple(names)


def find_test_ids(data: FlowerData) -> list[str]:
    """The ids that a submission for `data` must hold, from its sample_submission.csv or test shards.

    A damaged record stands there by its file and number. Raises ValueError where the two differ in
    number, FileNotFoundError where there is neither.
    """
    sample = data.folder / SAMPLE
    if sample.is_file():
        ids = read_ids(sample)
        if data.counts["test"] not in (0, len(ids)):
            raise ValueError(
                f"{sample} has {pluralize(len(ids), 'id')}, but the names of the test shards promise "
                f"{pluralize(data.counts['test'], 'image')}. Download the data again."
            )
        return ids
    if not data.files["test"]:
        raise FileNotFoundError(
            f"{data.folder} has neither sample_submission.csv nor test shards to take ids from."
        )
    return [name for file in data.files["test"] for name in find_ids(file)]


def read_test_labels(data: FlowerData) -> dict[str, int] | None:
    """The class ids of test images by id, where the test split has labels (a folder of photos).

    Raises ValueError for a class that `data` has not.
    """
    from flowerkit.photos import TEST_LABELS

    known = data.folder / TEST_LABELS
    if not known.is_file():
        return None
    labels = read_labels(known, data.csv_labels)
    for name, label in labels.items():
        if label >= data.num_classes:
            raise ValueError(
                f"{known}: the label {label} of {name!r} is outside 0..{data.num_classes - 1}. Correct "
                f"it, or remove the file."
            )
    return labels


def check_test_split(data: FlowerData, *, on_corrupt: str = "raise") -> "Split | None":
    """The test split, every record decoded, its ids those of sample_submission.csv; None without one.

    With on_corrupt="skip" it is logged which rows the csv will lack. Raises ValueError.
    """
    if not data.counts["test"]:
        return None
    from flowerkit.data import load_split  # which loads NumPy

    split = load_split(data, "test", on_corrupt=on_corrupt, cache="none")
    split.images.finish()
    ids = split.ids.tolist()
    wanted = find_test_ids(data)
    missing, foreign = (
        [repr(name) for name in sorted(set(some) - set(others))]
        for some, others in ((wanted, ids), (ids, wanted))
    )
    if foreign or (missing and on_corrupt != "skip"):
        raise ValueError(
            f"{data.folder / SAMPLE} is not of these test shards: {pluralize(len(foreign), 'image')} "
            f"with another id ({join_some(foreign) or 'none'}), {pluralize(len(missing), 'id')} without "
            f"an image ({join_some(missing) or 'none'}). Download the data again."
        )
    if missing:
        _log.warning(
            f"the csv will lack {pluralize(len(missing), 'row')}, and Kaggle refuses such a csv: no "
            f"readable test image for {join_some(missing)}"
        )
    read_test_labels(data)  # refuses what would else be found when all is trained
    return split
