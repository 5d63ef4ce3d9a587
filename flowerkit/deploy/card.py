"""What a model needs to be used by someone who has nothing but its file: classes, size, pixels."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowerkit import __version__
from flowerkit.files import read_json

NAME = "flowerkit"
LABELS_FILE, CARD_FILE = "labels.txt", "flowerkit.json"
FITS = ("crop", "pad", "squish")

_INPUT = "RGB pixels 0..255, float32 (n, image_size, image_size, 3)"
_OUTPUT = "probabilities, float32 (n, number of classes), rows sum to 1"


@dataclass(frozen=True)
class ModelCard:
    """The contract of a classifier, which stands inside each of its exports.

    `class_names`: what the columns of its answers are, in order. `image_size` (px): it takes squares
    of that side. `fit`: how a photo of another shape became one in training, so also now: "crop",
    "pad" or "squish". `val_f1`: its macro F1 on val, None where nobody measured it. `backbone`,
    `trained_on` (where the images came from) and `version` (of flowerkit) are told to readers.
    """

    class_names: tuple[str, ...]
    image_size: int
    fit: str = "crop"
    val_f1: float | None = None
    backbone: str | None = None
    trained_on: str | None = None
    version: str = __version__

    def to_json(self) -> str:
        """One JSON object; `input` and `output` say the contract in words.

        >>> print(ModelCard(("rose", "수국"), 224, val_f1=0.93).to_json()[:45])
        {"class_names": ["rose", "수국"], "image_size":
        """
        return json.dumps(vars(self) | {"input": _INPUT, "output": _OUTPUT}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "ModelCard":
        """What `to_json` wrote. Raises ValueError, naming `where`, for anything else."""
        try:
            value = json.loads(text)
            names = value["class_names"]
            card = cls(
                check_names(names, where=where),
                int(value["image_size"]),
                value["fit"],
                *(value.get(field) for field in ("val_f1", "backbone", "trained_on")),
                version=str(value.get("version")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"the classes and the input of the model in {where} cannot be read "
                f"({type(error).__name__}: {error}). Export it again with this flowerkit."
            ) from error
        if card.fit not in FITS or card.image_size < 1:
            raise ValueError(
                f"{where} wants photos fitted by {card.fit!r} to {card.image_size} px; this flowerkit "
                f"{__version__} knows {', '.join(FITS)}. Install flowerkit {card.version}."
            )
        return card


def check_names(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """Class names as they are stored, at least two and none twice. Raises ValueError."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names of {where} must be a list of names. Received: {names!r}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if len(names) < 2 or twice:
        fault = f"{twice[0]!r} stands twice" if twice else f"there are {len(names)}"
        raise ValueError(f"class_names of {where} must be two names or more, each once: {fault}.")
    return tuple(names)


def read_run_card(run: str | os.PathLike) -> ModelCard | None:
    """The card of the model in a run folder, from what the run wrote down; None where it is none.

    `fit` is how the photos that it was trained on were resized. Images that are squares already, as
    the competition's, were not resized, so "crop" it is.
    """
    run = Path(run)
    if not (run / "environment.json").is_file():
        return None
    data = read_json(run / "environment.json")["data"]
    result = read_json(run / "result.json") if (run / "result.json").is_file() else {}
    plan = read_json(run / "plan.json") if (run / "plan.json").is_file() else {}
    score, backbone = result.get("val_f1"), plan.get("backbone")
    return ModelCard(
        check_names(data["class_names"], where=f"{run}/environment.json"),
        data["image_size"],
        data.get("resize") or "crop",
        score if score is not None and math.isfinite(score) else None,
        Path(backbone).stem if backbone else None,
        data["origin"],
    )
