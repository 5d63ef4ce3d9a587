"""Which backbones there are, and what of them is on this machine. Loads no framework."""

import os
from dataclasses import dataclass
from pathlib import Path

TINY = "tiny"
# The dense networks of the regularisation study: widths of the layers before the softmax.
DENSE = {"dense-small": (64, 64), "dense-large": (512, 512, 512, 512)}
# What a dense network sees of a larger image: at 224 px its first layer alone would have 77 million
# weights, at 64 px it has 6.
DENSE_INPUT_PX = 64

# What the weights' sources say: keras.io/api/applications and its older page with a licence for each
# (keras-team/keras, docs/templates/applications.md); where it says nothing, the repository that the
# weights were taken from (tensorflow/tpu, google/automl, tensorflow/models, facebookresearch/ConvNeXt).
_LICENCES = {
    "convnext": "MIT",
    "densenet": "BSD-3-Clause",
    "efficientnet": "Apache-2.0",
    "efficientnet_v2": "Apache-2.0",
    "inception_resnet_v2": "Apache-2.0",
    "inception_v3": "Apache-2.0",
    "mobilenet": "Apache-2.0",
    "mobilenet_v2": "Apache-2.0",
    "mobilenet_v3": "Apache-2.0",
    "nasnet": "Apache-2.0",
    "resnet": "MIT",
    "resnet_v2": "BSD",
    "vgg16": "CC-BY-4.0",
    "vgg19": "CC-BY-4.0",
    "xception": "MIT",
}
FAMILIES = tuple(_LICENCES)


@dataclass(frozen=True)
class Backbone:
    """A backbone by name: its family (a module of `keras.applications`, or "flowerkit").

    `parameters` are those without the classifier, `input_px` the side of the images that it was
    designed for (others work, from 32 px for most). `weights_file` is the pattern of the file that
    Keras keeps its ImageNet weights in; None: it has none.
    """

    name: str
    family: str
    parameters: int
    input_px: int
    weights_file: str | None = None

    @property
    def weights_mb(self) -> float | None:
        """What the download weighs, in 10**6 bytes: 4 a parameter; a few percent more on disk."""
        return None if self.weights_file is None else 4 * self.parameters / 1e6

    @property
    def licence(self) -> str | None:
        """The licence of the ImageNet weights (SPDX where the source is so exact)."""
        return _LICENCES.get(self.family)

    @property
    def is_cached(self) -> bool:
        """Whether its ImageNet weights are in Keras's folder, so that no internet is needed."""
        return self.weights_file is not None and any(weights_folder().glob(self.weights_file))


_TF = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
# Counted with Keras 3.15.1 (`count_params`, include_top=False), sizes from each builder's
# default_size. The sizes on keras.io are those with the classifier: 528 MB for VGG16, of which 59 serve.
_APPLICATIONS = (
    Backbone("ConvNeXtTiny", "convnext", 27_820_128, 224, "convnext_tiny_notop.h5"),
    Backbone("ConvNeXtSmall", "convnext", 49_454_688, 224, "convnext_small_notop.h5"),
    Backbone("ConvNeXtBase", "convnext", 87_566_464, 224, "convnext_base_notop.h5"),
    Backbone("ConvNeXtLarge", "convnext", 196_230_336, 224, "convnext_large_notop.h5"),
    Backbone("ConvNeXtXLarge", "convnext", 348_147_968, 224, "convnext_xlarge_notop.h5"),
    Backbone("DenseNet121", "densenet", 7_037_504, 224, f"densenet121{_TF}"),
    Backbone("DenseNet169", "densenet", 12_642_880, 224, f"densenet169{_TF}"),
    Backbone("DenseNet201", "densenet", 18_321_984, 224, f"densenet201{_TF}"),
    Backbone("EfficientNetB0", "efficientnet", 4_049_571, 224, "efficientnetb0_notop.h5"),
    Backbone("EfficientNetB1", "efficientnet", 6_575_239, 240, "efficientnetb1_notop.h5"),
    Backbone("EfficientNetB2", "efficientnet", 7_768_569, 260, "efficientnetb2_notop.h5"),
    Backbone("EfficientNetB3", "efficientnet", 10_783_535, 300, "efficientnetb3_notop.h5"),
    Backbone("EfficientNetB4", "efficientnet", 17_673_823, 380, "efficientnetb4_notop.h5"),
    Backbone("EfficientNetB5", "efficientnet", 28_513_527, 456, "efficientnetb5_notop.h5"),
    Backbone("EfficientNetB6", "efficientnet", 40_960_143, 528, "efficientnetb6_notop.h5"),
    Backbone("EfficientNetB7", "efficientnet", 64_097_687, 600, "efficientnetb7_notop.h5"),
    Backbone("EfficientNetV2B0", "efficientnet_v2", 5_919_312, 224, "efficientnetv2-b0_notop.h5"),
    Backbone("EfficientNetV2B1", "efficientnet_v2", 6_931_124, 240, "efficientnetv2-b1_notop.h5"),
    Backbone("EfficientNetV2B2", "efficientnet_v2", 8_769_374, 260, "efficientnetv2-b2_notop.h5"),
    Backbone("EfficientNetV2B3", "efficientnet_v2", 12_930_622, 300, "efficientnetv2-b3_notop.h5"),
    Backbone("EfficientNetV2S", "efficientnet_v2", 20_331_360, 384, "efficientnetv2-s_notop.h5"),
    Backbone("EfficientNetV2M", "efficientnet_v2", 53_150_388, 480, "efficientnetv2-m_notop.h5"),
    Backbone("EfficientNetV2L", "efficientnet_v2", 117_746_848, 480, "efficientnetv2-l_notop.h5"),
    Backbone(
        "InceptionResNetV2", "inception_resnet_v2", 54_336_736, 299, f"inception_resnet_v2{_TF}"
    ),
    Backbone("InceptionV3", "inception_v3", 21_802_784, 299, f"inception_v3{_TF}"),
    # These two have a file for each of several image sizes.
    Backbone("MobileNet", "mobilenet", 3_228_864, 224, "mobilenet_1_0_*_tf_no_top.h5"),
    Backbone(
        "MobileNetV2",
        "mobilenet_v2",
        2_257_984,
        224,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_*_no_top.h5",
    ),
    Backbone(
        "MobileNetV3Small",
        "mobilenet_v3",
        939_120,
        224,
        "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    ),
    Backbone(
        "MobileNetV3Large",
        "mobilenet_v3",
        2_996_352,
        224,
        "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    ),
    Backbone("NASNetMobile", "nasnet", 4_269_716, 224, "nasnet_mobile_no_top.h5"),
    Backbone("NASNetLarge", "nasnet", 84_916_818, 331, "nasnet_large_no_top.h5"),
    Backbone("ResNet50", "resnet", 23_587_712, 224, f"resnet50{_TF}"),
    Backbone("ResNet101", "resnet", 42_658_176, 224, f"resnet101{_TF}"),
    Backbone("ResNet152", "resnet", 58_370_944, 224, f"resnet152{_TF}"),
    Backbone("ResNet50V2", "resnet_v2", 23_564_800, 224, f"resnet50v2{_TF}"),
    Backbone("ResNet101V2", "resnet_v2", 42_626_560, 224, f"resnet101v2{_TF}"),
    Backbone("ResNet152V2", "resnet_v2", 58_331_648, 224, f"resnet152v2{_TF}"),
    Backbone("VGG16", "vgg16", 14_714_688, 224, f"vgg16{_TF}"),
    Backbone("VGG19", "vgg19", 20_024_384, 224, f"vgg19{_TF}"),
    Backbone("Xception", "xception", 20_861_480, 299, f"xception{_TF}"),
)
_OWN = (
    Backbone(TINY, "flowerkit", 389_856, 64),
    Backbone("dense-small", "flowerkit", 790_656, DENSE_INPUT_PX),
    Backbone("dense-small-bn", "flowerkit", 791_040, DENSE_INPUT_PX),
    Backbone("dense-large", "flowerkit", 7_079_936, DENSE_INPUT_PX),
    Backbone("dense-large-bn", "flowerkit", 7_086_080, DENSE_INPUT_PX),
)


def list_backbones() -> dict[str, str]:
    """Every Keras Applications backbone by name, with its family (a module of `keras.applications`)."""
    return {backbone.name: backbone.family for backbone in _APPLICATIONS}


def describe_backbones() -> list[Backbone]:
    """All that `build_classifier` takes by name: flowerkit's own, then Keras Applications by family.

    >>> vgg16 = next(one for one in describe_backbones() if one.name == "VGG16")
    >>> vgg16.parameters, round(vgg16.weights_mb), vgg16.input_px, vgg16.licence
    (14714688, 59, 224, 'CC-BY-4.0')
    """
    return [*_OWN, *_APPLICATIONS]


def tabulate_backbones() -> list[str]:
    """`describe_backbones` as lines under a heading."""
    lines = [f"{'backbone':<20}{'parameters':>13}{'px':>6}{'weights':>10}  licence"]
    for one in describe_backbones():
        size = f"{one.weights_mb:,.0f} MB" if one.weights_mb else "none"
        here = "  (cached here)" if one.is_cached else ""
        lines.append(
            f"{one.name:<20}{one.parameters:>13,}{one.input_px:>6}{size:>10}  {one.licence or '-'}{here}"
        )
    return lines


def weights_folder() -> Path:
    """Where Keras keeps downloaded weights: KERAS_HOME or ~/.keras, then models/."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def find_cached_weights() -> list[Path]:
    """The weights files that Keras has downloaded before, sorted; empty if there are none."""
    folder = weights_folder()
    return sorted([*folder.glob("*_notop*.h5"), *folder.glob("*_no_top*.h5")])
