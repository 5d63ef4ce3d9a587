"""How strongly training images are changed: one frozen, validated value. Loads no NumPy."""

import dataclasses
from dataclasses import dataclass


def setting(default, help: str):
    """A dataclass field with a default and the help of its command-line option."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Augmentation:
    """The random changes to training images, each image its own; all off but the flip by default.

    flip, vertical_flip: mirror half of the images left to right, top to bottom. The next four mean
    what they mean in fastai's `aug_transforms`; what comes in from outside the picture is mirrored.
    max_rotation_degrees: either way. max_zoom: a factor in [1, max_zoom] into a random part.
    max_lighting: brightness and contrast, as a shift and a gain of the pixels' logits; the middle grey
    moves to at most (1 + max_lighting) / 2 of white, the gain is at most 1 / (1 - max_lighting).
    max_warp: a tilt, by which a side grows and the opposite side shrinks by this fraction.
    min_crop_area: keep a random part of the picture, its area from [min_crop_area, 1], its aspect from
    [4/5, 5/4], resized to the whole; 1: off.
    random_erasing: the probability that a grey rectangle hides 2 to 20 % of the picture (Zhong et al.
    2017, arXiv:1708.04896). mixup, cutmix: alpha of their Beta distribution, 0: off (Zhang et al. 2017,
    arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899); with both on, each pair of images gets one.
    Raises ValueError for strengths out of range.
    """

    flip: bool = setting(True, "mirror half of the training images left to right")
    vertical_flip: bool = setting(False, "mirror half of the training images top to bottom")
    max_rotation_degrees: float = setting(0.0, "rotate by up to this angle, either way")
    max_zoom: float = setting(1.0, "zoom into a random part by up to this factor (1: off)")
    max_lighting: float = setting(0.0, "change brightness and contrast by up to this fraction")
    max_warp: float = setting(0.0, "tilt the picture by up to this fraction of a side")
    min_crop_area: float = setting(
        1.0, "keep a random part of each, from this fraction of its area up (1: all of it)"
    )
    random_erasing: float = setting(0.0, "how often a grey rectangle hides a part (0..1)")
    mixup: float = setting(0.0, "alpha of mixup (0: off)")
    cutmix: float = setting(0.0, "alpha of cutmix (0: off)")

    def __post_init__(self) -> None:
        check_between("max_rotation_degrees", self.max_rotation_degrees, 0, 180)
        check_between("max_zoom", self.max_zoom, 1, 4)
        check_between("max_lighting", self.max_lighting, 0, 0.95)
        check_between("max_warp", self.max_warp, 0, 0.4)  # at 0.5 two opposite corners meet
        check_between("min_crop_area", self.min_crop_area, 0.05, 1)
        check_between("random_erasing", self.random_erasing, 0, 1)
        check_between("mixup", self.mixup, 0, 10)
        check_between("cutmix", self.cutmix, 0, 10)

    @property
    def mixes(self) -> bool:
        """Whether images, and so labels, are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a value out of low..high, both allowed."""
    if not low <= value <= high:  # nan is not, either
        raise ValueError(f"{name} must be in {low:g}..{high:g}. Received: {name}={value}")
