"""The model card: what a model file says about its classes, its input and its origin."""

import json
import math
import os
import reprlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from flowerkit import __version__
from flowerkit.files import check_seal, parse_json, seal
from flowerkit.photos import check_resize

CARD_FILE = "flowerkit.json"

_INPUT = "RGB pixels 0..255, float32 (n, image_size, image_size, 3)"
_OUTPUT = "probabilities, float32 (n, number of classes), rows sum to 1"


@dataclass(frozen=True)
class ModelCard:
    """The contract of a classifier, stored inside each of its exports.

    `class_names`: the names of the outputs, in order. `image_size` (px): the side of the square input.
    `resize`: how photos became squares for training, so also now: "crop", "pad" or "squish". `val_f1`:
    macro F1 on val, None if it was not measured. `backbone`, `trained_on` (where the images came from)
    and `version` (of flowerkit) are for readers. Raises ValueError for values that no classifier has.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: str
    val_f1: float | None = None
    backbone: str | None = None
    trained_on: str | None = None
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

    def to_json(self, **more) -> str:
        """One JSON object with a checksum; its `input` and `output` describe the contract in words."""
        values = asdict(self) | {"input": _INPUT, "output": _OUTPUT} | more
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


def find_run_card(folder: str | os.PathLike) -> ModelCard | None:
    """The card of the model in a run folder, from what the run recorded; None if it is no run.

    A run on images that were squares already, such as the competition's, has no resize: "crop".
    """
    from flowerkit.training import RunFolder  # reads files, loads no framework

    run = RunFolder(folder)
    if not run.environment_file.is_file():
        return None
    data = run.environment().data
    val_f1 = run.result().val_f1 if run.result_file.is_file() else math.nan
    return ModelCard(
        class_names=data.class_names,
        image_size=data.image_size,
        resize=data.resize or "crop",
        val_f1=val_f1 if math.isfinite(val_f1) else None,
        backbone=Path(run.plan().backbone).stem,
        trained_on=data.origin,
    )
