"""Petals to the Metal on Kaggle: where its files are, and the names of its 104 flowers."""

import contextlib
import logging
import os
from pathlib import Path

from flowerkit.data import FlowerData, find_shards, find_sizes

SLUG = "tpu-getting-started"
TWIN_SLUG = "flower-classification-with-tpus"
# Where Kaggle puts everything; a rehearsal off Kaggle names another folder.
KAGGLE = Path(os.environ.get("FLOWERKIT_KAGGLE_ROOT") or "/kaggle")
WORKING = KAGGLE / "working"
# Sessions of 2026 mount under competitions/, older and hand-attached ones beside it.
INPUT = KAGGLE / "input"
MOUNTS = tuple(INPUT / place / slug for slug in (SLUG, TWIN_SLUG) for place in ("competitions", ""))
COUNTS = {"train": 12_753, "val": 3_712, "test": 7_382}
# In the order of the class ids. Two names end in a blank (87 and 90), as in the competition's own
# notebooks; the list is compared by a checksum, so it stays.
# fmt: off
CLASS_NAMES = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "wild geranium",
    "tiger lily", "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon",
    "colt's foot", "king protea", "spear thistle", "yellow iris", "globe-flower",
    "purple coneflower", "peruvian lily", "balloon flower", "giant white arum lily", "fire lily",
    "pincushion flower", "fritillary", "red ginger", "grape hyacinth", "corn poppy",
    "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "cosmos", "alpine sea holly", "ruby-lipped cattleya",
    "cape flower", "great masterwort", "siam tulip", "lenten rose", "barberton daisy", "daffodil",
    "sword lily", "poinsettia", "bolero deep blue", "wallflower", "marigold", "buttercup", "daisy",
    "common dandelion", "petunia", "wild pansy", "primula", "sunflower", "lilac hibiscus",
    "bishop of llandaff", "gaura", "geranium", "orange dahlia", "pink-yellow dahlia",
    "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush", "californian poppy",
    "osteospermum", "spring crocus", "iris", "windflower", "tree poppy", "gazania", "azalea",
    "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow",
    "magnolia", "cyclamen ", "watercress", "canna lily", "hippeastrum ", "bee balm", "pink quill",
    "foxglove", "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia",
    "blanket flower", "trumpet creeper", "blackberry lily", "common tulip", "wild rose",
)
# fmt: on

_log = logging.getLogger("flowerkit")


def find_competition(*, image_size: int | None = 224) -> FlowerData:
    """The competition's shards of `image_size` px (192, 224, 331 or 512), from the first of MOUNTS.

    Else they are mounted under another name, and known by their counts. Raises FileNotFoundError if no
    mount holds shards or the first that does lacks that size.
    """
    if folder := next(filter(find_sizes, MOUNTS), None):
        return _find_in(folder, image_size)
    others = [path.parent for path in sorted(INPUT.glob("**/tfrecords-jpeg-*/")) if path.is_dir()]
    for folder in dict.fromkeys(others):
        with contextlib.suppress(FileNotFoundError, ValueError):
            if (data := _find_in(folder, image_size)).counts == COUNTS:
                _log.info(f"the competition's data is mounted as {folder}")
                return data
    found = f"; {others[0]} holds others, for which pass --data {others[0]}" if others else ""
    raise FileNotFoundError(
        f"no competition data (looked in {', '.join(map(str, MOUNTS))}{found}). On Kaggle: Add Input, "
        f"search for {SLUG!r} under Competitions, add it, and accept the rules on its page."
    )


def download_competition(*, image_size: int | None = 224) -> FlowerData:
    """The competition's shards by `kagglehub`, which stores them and downloads them only once.

    Raises RuntimeError, with the remedy, if kagglehub is missing or the download fails.
    """
    try:
        import kagglehub

        folder = kagglehub.competition_download(SLUG)
    except Exception as error:  # kagglehub raises the errors of several libraries
        remedy = (
            f"Check the API token (kaggle.com/settings), accept the rules (kaggle.com/c/{SLUG})"
        )
        if isinstance(error, ImportError):
            remedy = "Run `pip install kagglehub`"
        raise RuntimeError(
            f"kagglehub could not download {SLUG} ({type(error).__name__}: {error}). {remedy}, or pass "
            "the folder of the data."
        ) from error
    return _find_in(Path(folder), image_size)


def has_kaggle_token() -> bool:
    """Whether kagglehub finds credentials: in the environment, in ~/.kaggle or in Colab's secrets."""
    try:
        from kagglehub.config import get_kaggle_credentials
    except ImportError:
        return False
    return get_kaggle_credentials() is not None


def _find_in(folder: Path, image_size: int | None) -> FlowerData:
    return find_shards(folder, image_size=image_size, class_names=CLASS_NAMES, origin="competition")
