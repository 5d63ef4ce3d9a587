"""Pretrained networks of KerasHub, by `hub:PRESET`: their pixels' scaling, and their output as a map.

What a preset is comes from its files: its image converter knows the scaling, its class what it takes.
Presets of text, sound or several parts are refused in words, before their weights are read.
"""

import glob
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from flowerkit.models.backbones import HUB
from flowerkit.models.foreign import adopt, reason_of
from flowerkit.sources import KAGGLE
from flowerkit.text import did_you_mean

_LIST = "https://keras.io/keras_hub/presets/"


def import_keras_hub() -> ModuleType:
    """The module. Raises RuntimeError, with the line for pip, where it does not import."""
    try:
        import keras_hub
        from keras_hub.src.models.dinov2.dinov2_layers import DINOV2Embedding
    except ImportError as error:
        raise RuntimeError(
            f"this network needs KerasHub, which does not import ({error}). Install it: "
            f"pip install 'keras-hub>=0.26'"
        ) from error
    DINOV2Embedding.save_own_variables = _save_embedding
    return keras_hub


def _save_embedding(layer, store) -> None:
    """The weights of DINOv2's embedding as they are.

    KerasHub saves what training made of the positions only if the sum of the changes is negative.
    """
    if layer.position_embeddings.shape == layer.interpolated_position_embeddings.shape:
        layer.position_embeddings.assign(layer.interpolated_position_embeddings)
    keras.layers.Layer.save_own_variables(layer, store)


def fixed_input_size(name: str) -> int | None:
    """The only side, in px, of the images that the pretrained `name` takes; None: it takes any."""
    return _fixed_size(_find_converter(import_keras_hub(), name))


def build_from_hub(name: str, *, input_size: int, with_weights: bool) -> tuple:
    """(backbone, function that scales its pixels) of "hub:PRESET", with its weights or fresh ones.

    PRESET is a name of KerasHub's list, a handle (kaggle://, hf://) or a folder. Tokens become a feature
    map (n, height, width, channels); the class token, or what else sums up the image, stands at each
    place beside them, so that a pooled head gets it and the mean of the patches (as the linear
    classifiers of DINOv2 do: Oquab et al. 2023, arXiv:2304.07193).

    Raises RuntimeError for what cannot be fetched, and ValueError for an unknown name, a preset that is
    no encoder of images, and a size that it does not take.
    """
    hub = import_keras_hub()
    converter = _find_converter(hub, name)
    takes_shape = "image_shape" in _parameters(converter)
    fixed = _fixed_size(converter)
    if fixed not in (None, input_size) and (with_weights or not takes_shape):
        raise ValueError(
            f"{name} takes images of {fixed} x {fixed} px only, and would get {input_size} x "
            f"{input_size}. Pass input_size={fixed} (--input-size {fixed})."
        )
    shape = {"image_shape": (input_size, input_size, 3)} if takes_shape else {}
    network = _fetch(
        hub,
        name,
        lambda preset: hub.models.Backbone.from_preset(preset, load_weights=with_weights, **shape),
    )
    encoder = _prepare(getattr(network, "vision_encoder", network))
    body = adopt(_end_in_map(encoder, input_size), input_size=input_size, is_ours=True)
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, "float32")
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, "float32")
    return body, lambda pixels: pixels * scale + offset


# The preset ------------------------------------------------------------------------------------------


def _find_converter(hub: ModuleType, name: str):
    """The preset's image converter. Refuses a preset without one, and one of several parts."""

    def find(preset: str):
        try:
            return hub.layers.ImageConverter.from_preset(preset)
        except ImportError:  # without tensorflow-text it is made on request only
            return hub.layers.ImageConverter.from_preset(preset, _allow_python_workflow=True)

    converter = _fetch(hub, name, find)
    if converter is None:
        raise ValueError(
            f"{name} does not say how its pixels are scaled. Choose a preset with an image converter: "
            f"{_LIST}"
        )
    parts = {part for part in _parameters(converter) if "encoder" in part or "vocab" in part}
    parts |= {"backbone"} & _parameters(converter)
    if parts - {"vision_encoder", "text_encoder"} or len(parts) == 1:
        raise _refuse_kind(name, type(converter).backbone_cls.__name__)
    return converter


def _parameters(converter) -> set[str]:
    return set(inspect.signature(type(converter).backbone_cls.__init__).parameters)


def _fixed_size(converter) -> int | None:
    """Transformers have an embedding for each place; DINOv2 resizes them, DINOv3 computes them."""
    parameters = _parameters(converter)
    if not parameters & {"patch_size", "vision_encoder"}:
        return None
    if parameters & {"position_embedding_shape", "rope_theta"}:
        return None
    return converter.image_size and converter.image_size[0]


def _fetch(hub: ModuleType, name: str, read: Callable):
    """`read(preset)`, from the folder of an attached model where the preset cannot be fetched."""
    preset = name.removeprefix(HUB)
    known = hub.layers.ImageConverter.presets
    if preset and (folder := Path(preset).expanduser()).is_dir():
        return _read_folder(name, str(folder), read)
    if "://" not in preset and preset not in hub.models.Backbone.presets:
        raise ValueError(
            f"{preset!r} is no preset of KerasHub {hub.__version__} and no folder."
            f"{did_you_mean(preset, known)} Its names are listed at {_LIST}; kaggle://... and hf://... "
            f"are handles."
        )
    if preset.startswith(("http://", "https://")):
        raise ValueError(
            f"{name} is an address, and a preset has a handle: hub:hf://OWNER/NAME of huggingface.co, "
            f"hub:kaggle://OWNER/MODEL/keras/VARIATION of kaggle.com/models."
        )
    if "://" not in preset and preset not in known:
        raise _refuse_kind(name, "text, sound, video or drawing")
    handle = known[preset]["kaggle_handle"] if preset in known else preset
    try:
        return read(preset)
    except Exception as error:  # of KerasHub, kagglehub, huggingface_hub and what they use
        _refuse_class(name, error)
        *_, variation = re.sub(r"/\d*$", "", handle.split("://")[-1]).split("/")
        attached = variation and (KAGGLE / "input").rglob(f"{glob.escape(variation)}/*/config.json")
        if attached := sorted(attached or ()):
            return _read_folder(name, str(attached[0].parent), read)
        raise RuntimeError(
            f"{name} could not be fetched: {reason_of(error).rstrip('.')}. Check its name; without "
            f"internet {_explain_fetching(handle)}, copy that folder here and pass --backbone "
            f"hub:FOLDER, or attach the model on Kaggle."
        ) from error


def _explain_fetching(handle: str) -> str:
    place = handle.split("://")[-1]
    command = f'import kagglehub; print(kagglehub.model_download("{place}"))'
    if handle.startswith("hf://"):
        command = f'import huggingface_hub as hf; print(hf.snapshot_download("{place}"))'
    return f"run `python -c '{command}'` where there is some"


def _read_folder(name: str, folder: str, read: Callable):
    try:
        return read(folder)
    except Exception as error:  # of KerasHub, Keras, h5py
        _refuse_class(name, error)
        raise ValueError(
            f"{name} is no whole preset of KerasHub: {reason_of(error).rstrip('.')}. It has "
            f"config.json, image_converter.json and the weights: copy all of the preset's folder."
        ) from error


def _refuse_class(name: str, error: Exception) -> None:
    if "Unable to find a subclass of" in str(error):
        kind = str(error).partition("compatible with ")[2].split(" ")[0]
        raise _refuse_kind(name, kind) from None


def _refuse_kind(name: str, kind: str) -> ValueError:
    return ValueError(
        f"{name} is no encoder of images ({kind}), so it cannot be a backbone. Choose one that is, such "
        f"as hub:dinov2_base, hub:vit_base_patch16_224_imagenet or hub:siglip_base_patch16_224: {_LIST}"
    )


# The network -----------------------------------------------------------------------------------------


def _prepare(encoder: keras.Model) -> keras.Model:
    """The encoder without what only its own pretraining needs, its positions in the present size."""
    config = encoder.get_config()
    changes = {"use_mask_token": False, "position_embedding_shape": config.get("image_shape")}
    changes = {key: value for key, value in changes.items() if key in config}
    if not changes:
        return encoder
    held = {variable.path: variable for variable in encoder.weights}
    prepared = type(encoder).from_config(config | changes)
    for variable in prepared.weights:
        # DINOv2 keeps the positions of its pretraining beside those of the images' size.
        path = variable.path.replace("/position_embeddings", "/interpolated_position_embeddings")
        source = held.get(path, held[variable.path])
        variable.assign(keras.ops.convert_to_numpy(source).copy())
    return prepared


def _end_in_map(encoder: keras.Model, size: int) -> keras.Model:
    """The encoder from images (n, size, size, 3) to one feature map, its last one."""
    images = keras.Input((size, size, 3))
    inputs = keras.tree.map_structure(lambda _: images, encoder.input)
    outputs = keras.tree.flatten(encoder.output)
    patch_px = np.max(getattr(encoder, "patch_size", 1))
    side = int(size // patch_px)
    if len(outputs[0].shape) == 2:  # SigLIP ends in a summary of its tokens
        tokens = next(x.output for x in reversed(encoder.layers) if len(x.output.shape) == 3)
        parts = keras.Model(encoder.input, [tokens, outputs[0]], name=encoder.name)
        features, summary = parts(inputs)
    else:
        maps = keras.tree.flatten(encoder(inputs))  # HGNet has one of each stage
        features, summary = min(maps, key=lambda each: each.shape[1]), None
    if len(features.shape) == 3:
        num_tokens, width = features.shape[1:]
        if side**2 > num_tokens:  # stages that merge patches
            side = int(num_tokens**0.5)
        if summary is None and (others := num_tokens - side**2):  # the class token, then registers
            summary, features = features[:, 0], features[:, others:]
        features = keras.ops.reshape(features, (-1, side, side, width))
        if summary is not None:
            everywhere = keras.ops.tile(summary[:, None, None], (1, side, side, 1))
            features = keras.ops.concatenate([features, everywhere], axis=-1)
    return keras.Model(images, features, name="backbone")
