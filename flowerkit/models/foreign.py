"""Networks that a user brings: looked at, and made anew in the present precision.

What cannot be a backbone is refused in words, before any data is read. docs/backbones.md has the
contract.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from flowerkit.models.backbones import check_input, read_config
from flowerkit.models.freezing import own_learnable, unfreeze, walk_layers


def read_keras(path: Path) -> keras.Model:
    """The model in a `.keras` file, not compiled, in the precision that it was saved in.

    Raises ValueError if it does not load, RuntimeError where it needs KerasHub, which is not here.
    """
    if "keras_hub>" in read_config(path):
        from flowerkit.models.hub import import_keras_hub

        import_keras_hub()  # registers its layers
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # reads all; Keras would take what it finds
                raise ValueError(f"{damaged} in it has changed since it was written.")
        with _policy_of(path):
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # h5py, zipfile and Keras each have their own
        reason = f"{reason_of(error)} " if zipfile.is_zipfile(path) else "it is no zip file. "
        damaged = (
            f"{path} does not load with Keras {keras.__version__}: {reason}It is damaged, or a newer "
            f"Keras wrote it: install that version, or save it again."
        )
        raise ValueError(_explain_code(path, error) or damaged) from error


@contextmanager
def _policy_of(path: Path) -> Iterator[None]:
    """The dtype policy of a file, which the layers that a user's layer makes for itself follow."""
    mixed = re.search('"(mixed_b?float16)"', read_config(path))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(mixed[1] if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def reason_of(error: Exception) -> str:
    """The line of an error that says what is wrong; Keras prints it bold, below another."""
    bold = re.search(r"\x1b\[1m(.+?)\x1b", str(error), re.DOTALL)
    return ((bold[1] if bold else str(error)).strip() or type(error).__name__).splitlines()[0]


def _explain_code(name: str | Path, error: Exception) -> str | None:
    """The message where a user's own code is missing, which no file holds."""
    unknown = re.search(r"Could not locate (class|function) '([^']+)'", str(error))
    if unknown:
        return (
            f"{name} needs your {unknown[1]} {unknown[2]}, which Keras does not know here. Decorate it "
            f"with @keras.saving.register_keras_serializable(), and import its module before."
        )
    if "Lambda" in str(error):
        return (
            f"{name} holds a Lambda layer, whose code is not run from a file. Write it with keras.ops, "
            f"or as a registered layer."
        )
    return None


def adopt(
    network: str | keras.Model, *, input_size: int, with_weights: bool = True, is_ours: bool = False
) -> keras.Model:
    """`network` (a `.keras` file or a model) as a backbone in the present dtype policy, all trainable.

    It shares nothing with a model that is given, unless it `is_ours`. `with_weights`: those inside;
    without them they are fresh, but for what is not learned (an adapted Normalization).

    Raises FileNotFoundError, and ValueError for what is no backbone of images of `input_size` px.
    """
    is_file = not isinstance(network, keras.Model)
    name = Path(network).name if is_file else "the backbone"
    source = read_keras(Path(network)) if is_file else network
    if with_weights and not source.built:
        raise ValueError(
            f"{name} has no weights yet, because it has not been built. Begin it with "
            f"keras.Input((None, None, 3)), or pass weights=None (--weights none)."
        )
    shapes = [tuple(each.shape) for each in getattr(source, "inputs", None) or ()]
    check_input(shapes, name, input_size)
    policy = keras.config.dtype_policy().name
    is_as_wanted = all(layer.dtype_policy.name == policy for _, layer in walk_layers(source))
    is_kept = (is_file or is_ours) and with_weights and is_as_wanted
    body = source if is_kept else _make_anew(source, name, policy)
    output = _find_output(body, name, input_size)  # and builds what has not been
    if not is_kept and source.built:
        copy_state(source, body, learned=with_weights)
    if isinstance(getattr(body, "input", None), dict | list) or isinstance(output, dict | list):
        body = keras.Model(body.inputs[0], body.outputs[0])
    body.name = "backbone"
    unfreeze(body)  # a file remembers what was frozen when it was saved
    return body


def _make_anew(network: keras.Model, name: str, policy: str) -> keras.Model:
    """A copy with fresh weights, from the configuration: of all kinds of layers and operations."""
    try:
        config = keras.saving.serialize_keras_object(network)
        return keras.saving.deserialize_keras_object(_set_policy(config, policy))
    except Exception as error:  # of any layer, also a user's
        raise ValueError(
            _explain_code(name, error)
            or f"{name} cannot be built again from its configuration: {reason_of(error)} A layer of "
            f"your own needs a get_config() with all that its __init__ takes."
        ) from error


def _set_policy(node, policy: str):
    """A configuration in which all layers, nested ones too, compute in `policy`; without a loss."""
    if isinstance(node, dict):
        if node.get("class_name") == "DTypePolicy":
            return node | {"config": {"name": policy}}
        return {k: _set_policy(v, policy) for k, v in node.items() if k != "compile_config"}
    return [_set_policy(each, policy) for each in node] if isinstance(node, list) else node


def _find_output(body: keras.Model, name: str, size: int):
    """What `body` gives for images of `size` px, symbolic: refused unless it is one feature map."""
    try:
        output = body(keras.Input((size, size, 3)))
    except Exception as error:  # of any layer
        raise ValueError(
            f"{name} does not take images of {size} x {size} px: {reason_of(error)} Pass a larger "
            f"input_size (--input-size), or another backbone."
        ) from error
    shapes = [tuple(each.shape) for each in keras.tree.flatten(output)]
    if len(shapes) != 1:
        raise ValueError(
            f"{name} has {len(shapes)} outputs, {' and '.join(map(str, shapes))}; a backbone ends in "
            f"one feature map. Choose one: keras.Model(network.inputs, network.outputs[0])."
        )
    if len(shapes[0]) != 4 or 0 in shapes[0]:
        raise ValueError(
            f"{name} ends in shape {shapes[0]}; a backbone ends in a feature map (n, height, width, "
            f"channels). Save it without its pooling and classifier."
        )
    return output


def copy_state(source: keras.Model, target: keras.Model, *, learned: bool = True) -> None:
    """Copy what the layers of `source` hold to those of `target`, in order; both are built.

    Without `learned` only what layers without weights to learn hold: an adapted Normalization, tables.
    Raises ValueError where the two are not alike.
    """
    sources, targets = _all_layers(source), _all_layers(target)
    if len(sources) != len(targets):
        raise ValueError(f"it has {len(targets)} layers, and they are of {len(sources)}.")
    for old, new in zip(sources, targets, strict=True):
        given = not own_learnable(old) and not isinstance(old, keras.layers.BatchNormalization)
        if learned or given:
            held = {}  # as in a file: a layer may hold more than its weights say
            old.save_own_variables(held)
            # By way of the host: on JAX training gives up the memory that the two would share.
            new.load_own_variables(
                {k: keras.ops.convert_to_numpy(v).copy() for k, v in held.items()}
            )


def _all_layers(model: keras.Model) -> list[keras.Layer]:
    return [model, *(layer for _, layer in walk_layers(model))]


def load_weights(body: keras.Model, path: Path) -> None:
    """Set the weights of a backbone from a run folder, a `.keras` file or a weights file.

    Of a classifier (a run) those of its backbone. Raises FileNotFoundError, and ValueError for the
    weights of another network.
    """
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        what = "finished run" if path.is_dir() else "weights file"
        raise FileNotFoundError(
            f"no {what} {path}. Pass a weights file, a run folder, weights='imagenet', or None "
            f"(--weights none)."
        )
    donor = find_part(read_keras(file)) if file.suffix == ".keras" else None
    try:
        body.load_weights(file) if donor is None else copy_state(donor, body)
    except Exception as error:  # shapes, names, counts: each has its own
        raise ValueError(
            f"{path} does not hold weights of this network: {reason_of(error)} Pass the backbone that "
            f"they were trained in (--backbone)."
        ) from error


def find_part(model: keras.Model) -> keras.Model:
    """The backbone of a classifier; any other model as it is."""
    names = [layer.name for layer in model.layers]
    return model.get_layer("backbone") if "backbone" in names else model
