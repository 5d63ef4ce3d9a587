"""The model card: what a model file says about its classes, its input, its origin and its certainty."""

import json
import math
import os
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path

from flowerkit import __version__
from flowerkit.files import check_seal, parse_json, seal
from flowerkit.photos import check_resize

CARD_FILE = "flowerkit.json"
ACCEPT = 0.95
EVERYTHING = -100.0  # a threshold below every certainty

_INPUT = "RGB pixels 0..255, float32 (n, image_size, image_size, 3)"
_OUTPUT = "probabilities, float32 (n, number of classes), rows sum to 1"
_UNSURE = (
    "softmax(log(probabilities) / temperature) says how often an answer is right; an image is of none "
    "of these classes where certainty = -sum(sqrt(p * (1 - p))) over its 30 largest probabilities is "
    "below val_certainty[100 - A], at which A % of val are accepted"
)


@dataclass(frozen=True)
class ModelCard:
    """The contract of a classifier, stored inside each of its exports.

    `class_names`: of the outputs, in order. `image_size` (px): the side of the square input. `resize`:
    how photos became squares: "crop", "pad" or "squish". `val_f1`: macro F1 on val. `backbone`,
    `trained_on` (where the images came from) and `version` (of flowerkit) are for readers. With
    `temperature` probabilities are right as often as they say, see `metrics.apply_temperature`;
    `val_certainty` has 101 thresholds of `metrics.certainty`, see `rank_certainty`, or is empty where
    val was not measured. Raises ValueError for values that no classifier has.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: str
    val_f1: float | None = None
    backbone: str | None = None
    trained_on: str | None = None
    temperature: float = 1.0
    val_certainty: tuple[float, ...] = ()
    version: str = __version__

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", names := tuple(self.class_names))
        are_names = all(isinstance(name, str) and len(name) > 0 for name in names)
        if len(names) < 2 or len(set(names)) < len(names) or not are_names:
            raise ValueError(
                f"class_names must be two names or more, all different. Received: {reprlib.repr(names)}"
            )
        check_resize(self.resize)
        if not isinstance(self.image_size, int) or self.image_size < 1:
            raise ValueError(f"image_size must be in px. Received: image_size={self.image_size!r}")
        object.__setattr__(self, "val_certainty", tuple(self.val_certainty))
        if len(self.val_certainty) not in (0, 101) or not self.temperature > 0:
            raise ValueError(
                f"val_certainty must have 101 values and temperature be above 0. Received: "
                f"{len(self.val_certainty)} and {self.temperature}"
            )

    def threshold(self, accept: float = ACCEPT) -> float:
        """The certainty below which an image is of none of the classes.

        At least the fraction `accept` of val is above it; at 1 everything is, and where val was not
        measured. Raises ValueError unless 0 < accept <= 1.
        """
        check_accept(accept)
        if not self.val_certainty:
            return EVERYTHING
        return self.val_certainty[math.floor(100 - 100 * accept + 1e-9)]

    def to_json(self, **more) -> str:
        """One JSON object with a checksum; `input`, `output` and `unsure` say how to use it."""
        values = asdict(self) | {"input": _INPUT, "output": _OUTPUT, "unsure": _UNSURE} | more
        return json.dumps(seal(values), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str | os.PathLike) -> "ModelCard":
        """Read what `to_json` wrote. Raises ValueError, naming the file `source`, for anything else."""
        try:
            value = parse_json(text, source="its text")
            card = cls(**{field.name: value[field.name] for field in fields(cls)})
            check_seal(value, "its text", remedy="Copy the file again")
            return card
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"the model card in {source} is damaged or of another version: {reason}. Export the "
                f"model again with flowerkit {__version__}."
            ) from error


def check_accept(accept: float) -> None:
    """Raise ValueError unless `accept` is a fraction of val, above 0 and at most 1."""
    if not isinstance(accept, Real) or not 0 < accept <= 1:
        raise ValueError(
            f"accept={accept!r} (--accept {accept}) must be a number above 0 and at most 1: the "
            f"fraction of val that is accepted, such as {ACCEPT}."
        )


def check_similar(num: int) -> None:
    """Raise ValueError unless `num` can be how many similar photos are asked for."""
    if not isinstance(num, Integral) or num < 0:
        raise ValueError(
            f"similar={num!r} (--similar {num}) must be a whole number from 0: how many training photos "
            f"are shown with each photo."
        )


def rank_certainty(certainty: Sequence[float]) -> list[float]:
    """The thresholds of `ModelCard.val_certainty` for the certainties of n images of val.

    A further image like them is below the one of a percentage in at most that percentage of cases: split
    conformal prediction (Angelopoulos and Bates 2021, arXiv:2107.07511). For that n must be 19 at 5 %;
    of fewer images the threshold accepts everything.
    """
    ranked = [EVERYTHING, *sorted(map(float, certainty))]
    ranks = (len(ranked) * percent // 100 for percent in range(101))
    return [ranked[min(rank, len(ranked) - 1)] for rank in ranks]


def find_run_card(folder: str | os.PathLike) -> ModelCard | None:
    """The card of the model in a run folder, from what the run recorded; None if it is no run.

    Temperature and certainty are those of its predictions of val. A run on images that were squares
    already, such as the competition's, has no resize: "crop".
    """
    from flowerkit import metrics
    from flowerkit.training import RunFolder

    run = RunFolder(folder)
    if not run.environment_file.is_file():
        return None
    data, measured = run.environment().data, {}
    if run.val_predictions_file.is_file() and len(val := run.val_predictions()):
        measured = {
            "temperature": metrics.fit_temperature(val.labels, val.probabilities),
            "val_certainty": rank_certainty(metrics.certainty(val.probabilities)),
        }
    return ModelCard(
        class_names=data.class_names,
        image_size=data.image_size,
        resize=data.resize or "crop",
        val_f1=run.result().val_f1 if run.result_file.is_file() else None,
        backbone=Path(run.plan().backbone).name.removesuffix(".keras"),
        trained_on=data.origin,
        **measured,
    )
