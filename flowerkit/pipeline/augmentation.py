"""How strongly training images are changed: one frozen, validated value. Pure Python."""

import dataclasses
from dataclasses import dataclass


def setting(default, help: str):
    """A dataclass field with a default and the help of its command-line option."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Augmentation:
    """The random changes to training images, each image its own; all off but the flip by default.

    flip: mirror half of the images. min_crop_area: keep a random part of the picture, its area drawn
    from [min_crop_area, 1], its aspect from [4/5, 5/4], resized to the whole; 1: off.
    max_shift: by up to this fraction of the side, each way. max_zoom: in or out by up to this factor.
    max_rotation_degrees, max_shear_degrees: either way. What comes in from outside is mirrored.
    max_brightness: add up to this fraction of 255, either sign. max_contrast: a gain in
    [1 - max_contrast, 1 + max_contrast] around the image's mean.
    random_erasing: the probability that a grey rectangle hides 2 to 20 % of the picture (random erasing,
    Zhong et al. 2017, arXiv:1708.04896).
    mixup, cutmix: alpha of their Beta distribution, 0: off (Zhang et al. 2017, arXiv:1710.09412; Yun
    et al. 2019, arXiv:1905.04899); where both are on, each pair of images draws which one.
    Raises ValueError for strengths out of range.
    """

    flip: bool = setting(True, "mirror half of the training images")
    min_crop_area: float = setting(
        1.0, "keep a random part of each, from this fraction of its area up (1: all of it)"
    )
    max_shift: float = setting(0.0, "shift by up to this fraction of the side")
    max_zoom: float = setting(1.0, "zoom in or out by up to this factor (1: not)")
    max_rotation_degrees: float = setting(0.0, "turn by up to so much, either way")
    max_shear_degrees: float = setting(0.0, "shear by up to so much, either way")
    max_brightness: float = setting(0.0, "brighter or darker by up to this fraction of the range")
    max_contrast: float = setting(0.0, "more or less contrast by up to this fraction")
    random_erasing: float = setting(0.0, "how often a grey rectangle hides a part (0..1)")
    mixup: float = setting(0.0, "alpha of mixup (0: off)")
    cutmix: float = setting(0.0, "alpha of cutmix (0: off)")

    def __post_init__(self) -> None:
        check_between("min_crop_area", self.min_crop_area, 0.05, 1)
        check_between("max_shift", self.max_shift, 0, 0.5)
        check_between("max_zoom", self.max_zoom, 1, 4)
        check_between("max_rotation_degrees", self.max_rotation_degrees, 0, 180)
        check_between("max_shear_degrees", self.max_shear_degrees, 0, 45)
        for name in ("max_brightness", "max_contrast", "random_erasing"):
            check_between(name, getattr(self, name), 0, 1)
        for name in ("mixup", "cutmix"):
            check_between(name, getattr(self, name), 0, 10)

    @property
    def turns(self) -> bool:
        """Whether pixels leave their rows and columns: rotation or shear."""
        return self.max_rotation_degrees > 0 or self.max_shear_degrees > 0

    @property
    def mixes(self) -> bool:
        """Whether images, and so labels, are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def is_off(self) -> bool:
        """Whether images stay as they are."""
        return self == Augmentation(flip=False)


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a value out of low..high, both allowed."""
    if not low <= value <= high:  # nan is not, either
        raise ValueError(f"{name} must be in {low:g}..{high:g}. Received: {name}={value}")
