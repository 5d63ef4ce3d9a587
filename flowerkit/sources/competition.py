"""Petals to the Metal on Kaggle: where its files are, and the names of its 104 flowers."""

import logging
import os
import sys
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from flowerkit.data.tfrecords import FlowerData, find_shards, find_sizes

_log = logging.getLogger("flowerkit")

SLUG = "tpu-getting-started"
TWIN_SLUG = "flower-classification-with-tpus"
# Where Kaggle puts everything; a rehearsal off Kaggle names another folder.
KAGGLE = Path(os.environ.get("FLOWERKIT_KAGGLE_ROOT") or "/kaggle")
WORKING = KAGGLE / "working"
# Sessions of 2026 mount under competitions/, older and hand-attached ones beside it.
MOUNTS = tuple(
    KAGGLE / "input" / place / slug for slug in (SLUG, TWIN_SLUG) for place in ("competitions", "")
)
# What kagglehub and the kaggle client find in the environment; either will do.
_TOKENS = (("KAGGLE_API_TOKEN",), ("KAGGLE_USERNAME", "KAGGLE_KEY"))

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


def find_competition(
    *, image_size: int | None = 224, mounts: Iterable[str | os.PathLike] = MOUNTS
) -> FlowerData:
    """The competition's shards, from the first of `mounts` that holds any; `image_size` in px.

    The competition has 192, 224, 331 and 512 px. Raises FileNotFoundError if no mount holds shards
    or the first that does lacks that size.
    """
    mounts = [Path(mount) for mount in mounts]
    for mount in mounts:
        if find_sizes(mount):
            return _find_in(mount, image_size)
    looked = ", ".join(map(str, mounts))
    raise FileNotFoundError(
        f"no competition data (looked in {looked}). On Kaggle: Add Input, search for {SLUG!r} "
        "under Competitions, add it, and accept the rules on the competition's page."
    )


def download_competition(*, image_size: int | None = 224) -> FlowerData:
    """The competition's shards by `kagglehub`, which keeps them and downloads them only once.

    Raises RuntimeError, with the remedy, if kagglehub is missing or the download fails.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise RuntimeError(
            "kagglehub is not installed, and nothing else here downloads the competition. Run "
            "`pip install kagglehub`, or pass the folder of the data."
        ) from error
    try:
        folder = kagglehub.competition_download(SLUG)
    except Exception as error:  # kagglehub lets the errors of several libraries through
        raise RuntimeError(
            f"kagglehub could not download {SLUG} ({type(error).__name__}: {error}). Check three "
            "things: an API token (kaggle.com/settings), the rules accepted on "
            f"kaggle.com/c/{SLUG}, the internet switched on. Or pass the folder of the data."
        ) from error
    return _find_in(Path(folder), image_size)


def has_kaggle_token(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether one of the places where Kaggle's clients look for a token is filled.

    In a Colab notebook its secrets are one more: what they hold for Kaggle is put into `environ`,
    where those clients look, and is shown nowhere. Nothing else is read.

    >>> has_kaggle_token({"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "secret"})
    True
    """
    if any(all(environ.get(name) for name in names) for names in _TOKENS):
        return True
    folder = Path(environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle").expanduser()
    if any((folder / name).is_file() for name in ("access_token", "kaggle.json")):
        return True
    return _take_colab_secrets(environ)


def _take_colab_secrets(environ: MutableMapping[str, str]) -> bool:
    # Outside a notebook Colab's module would wait for an answer that never comes.
    if "google.colab" not in sys.modules:
        return False
    try:
        from google.colab import userdata
    except ImportError:
        return False
    taken = False
    for names in _TOKENS:  # both kinds, for an older kagglehub knows no API token
        found = {name: _ask_colab(userdata, name) for name in names}
        if all(found.values()):
            environ.update(found)
            taken = True
    return taken


def _ask_colab(userdata, name: str) -> str:
    """A secret of Colab's; empty if there is none or the notebook may not read it."""
    try:
        return (userdata.get(name) or "").strip()
    except Exception as error:  # each reason has a class of its own
        if isinstance(error, getattr(userdata, "NotebookAccessError", ())):
            _log.warning(
                "Colab's secret %s is closed to this notebook, so it is not used. Switch on its "
                "notebook access, under the key in the side bar.",
                name,
            )
        return ""


def _find_in(folder: Path, image_size: int | None) -> FlowerData:
    return find_shards(folder, image_size=image_size, class_names=CLASS_NAMES, origin="competition")
