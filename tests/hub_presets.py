"""The smallest networks of families of KerasHub, with random weights, as preset folders it wrote."""

import functools
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest

keras_hub = pytest.importorskip("keras_hub")
models, converters = keras_hub.models, keras_hub.layers

TOWER = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 16}
MEAN_AND_STD = {"scale": [1 / 51, 1 / 102, 1 / 255], "offset": [-2.0, -1.0, 0.5]}

_folders = tempfile.TemporaryDirectory(prefix="flowerkit-presets-")


@functools.cache
def write_preset(family):
    """The folder of a family's preset, written once a process."""
    keras.utils.set_random_seed(0)
    folder = Path(_folders.name, family.__name__)
    body, converter = family()
    for variable in body.trainable_variables:  # zeros and ones would hide what is lost
        noise = np.random.default_rng(1).normal(size=variable.shape)
        variable.assign(variable + 0.1 * noise)
    body.save_to_preset(folder)
    converter.save_to_preset(folder)
    return folder


def vit():
    body = models.ViTBackbone((32, 32, 3), 8, 2, 2, 8, 16)
    return body, converters.ViTImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0)


def dinov2():
    """Pretrained at 64 px, where its position embedding has 64 places; 32 px have 16."""
    body = models.DINOV2Backbone(
        patch_size=8, num_register_tokens=4, position_embedding_shape=(64, 64, 3), **TOWER
    )
    return body, converters.DINOV2ImageConverter(image_size=(32, 32), **MEAN_AND_STD)


def dinov3():
    body = models.DINOV3Backbone(patch_size=8, image_shape=(64, 64, 3), **TOWER)
    return body, converters.DINOV3ImageConverter(image_size=(32, 32), scale=1 / 255)


def siglip():
    image = models.SigLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **TOWER)
    text = models.SigLIPTextEncoder(vocabulary_size=9, embedding_dim=8, **TOWER)
    body = models.SigLIPBackbone(image, text)
    return body, converters.SigLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0)


def mobilenetv5():
    """An inverted residual, then attention, then the fusion of both scales, with RMS norms."""
    lists = {
        "block_types": [["er"], ["uir", "mqa"]],
        "num_filters": [[8], [16, 16]],
        "strides": [[2], [2, 1]],
        "act_layers": [["relu"], ["relu", "relu"]],
        "exp_ratios": [[2.0], [2.0, 2.0]],
        "se_ratios": [[0.0], [0.0, 0.0]],
        "dw_kernel_sizes": [[0], [3, 3]],
        "dw_start_kernel_sizes": [[0], [0, 0]],
        "dw_end_kernel_sizes": [[0], [0, 0]],
        "exp_kernel_sizes": [[3], [0, 0]],
        "pw_kernel_sizes": [[1], [0, 0]],
        "num_heads": [[0], [0, 2]],
        "key_dims": [[0], [0, 4]],
        "value_dims": [[0], [0, 4]],
        "kv_strides": [[0], [0, 1]],
        "use_cpe": [[False], [False, False]],
    }
    body = models.MobileNetV5Backbone(
        **{f"stackwise_{name}": value for name, value in lists.items()},
        stackwise_num_blocks=[1, 2],
        num_features=16,
        msfa_output_resolution=4,
        stem_size=8,
    )
    return body, converters.MobileNetV5ImageConverter(scale=1 / 255)


def swin():
    body = models.SwinTransformerBackbone((32, 32, 3), 8, (1, 1), (2, 2), 4, drop_path=0.0)
    return body, converters.SwinTransformerImageConverter(image_size=(32, 32), scale=1 / 255)


def hgnet():
    """It ends in a map of each stage: 8 x 8 and 4 x 4."""
    body = models.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[8, 16],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[[8, 8, 8, 1, 1, 3], [8, 8, 16, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
    )
    return body, converters.HGNetV2ImageConverter(scale=1 / 255)
