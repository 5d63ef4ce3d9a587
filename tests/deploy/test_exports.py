"""exports: every format predicts as the run does, and holds its contract."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from exported_run import CLASSES, draw_photo, export, skip_without, train_on_photos

from flowerkit.deploy import FORMATS, export_model, load_classifier
from flowerkit.deploy.card import ModelCard, find_run_card
from flowerkit.deploy.keras_file import rewrite_keras
from flowerkit.models import build_classifier

ON_JAX = keras.backend.backend() == "jax"
in_child = pytest.mark.skipif(ON_JAX, reason="as on TensorFlow, in a process that takes seconds")


# On JAX the others are converted as ONNX is.
@pytest.fixture(params=["keras", "onnx"] if ON_JAX else FORMATS)
def exported(request):
    skip_without(request.param)
    return export(request.param)


def build():
    return build_classifier(2, image_size=32, backbone="tiny", weights=None)


def save(model, folder):
    """The path of a `.keras` file with a card inside."""
    folder.mkdir(exist_ok=True)
    model.save(folder / "bare.keras")
    rewrite_keras(folder / "bare.keras", folder / "m.keras", card=ModelCard(("a", "b"), 32, "crop"))
    return folder / "m.keras"


@pytest.mark.backends
def test_an_export_predicts_as_the_run_does(exported):
    photos = [draw_photo(name, seed) for name in CLASSES for seed in (1, 2)]
    ours, theirs = (
        np.array([prediction.probabilities for prediction in classifier.predict(photos)])
        for classifier in map(load_classifier, (train_on_photos("pad"), exported.path))
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert np.ptp(ours, axis=0).min() > 0.5  # the photos are told apart
    assert exported.difference < 1e-4


def test_an_export_holds_its_contract(exported):
    classifier = load_classifier(exported.path)
    assert classifier.card == exported.card == find_run_card(train_on_photos("pad"))
    assert classifier.format == exported.format
    assert exported.path.name == FORMATS[exported.format].file
    assert [path for path in exported.path.parent.iterdir() if "export-" in path.name] == []


@in_child
@pytest.mark.parametrize("spoil", ["flip", "cut", "name"])
def test_a_flipped_bit_or_a_cut_anywhere_is_seen_and_named_with_its_file(exported, tmp_path, spoil):
    """In the weights, in the program, and in the names of the classes."""
    is_folder = exported.path.is_dir()
    path = tmp_path / exported.path.name
    (shutil.copytree if is_folder else shutil.copyfile)(exported.path, path)
    file = next(path.glob("variables/*data*")) if is_folder else path
    if spoil == "name" and is_folder:
        file = path / "assets.extra" / "flowerkit.json"
    content = bytearray(file.read_bytes())
    place = len(content) // 3
    if spoil == "name":  # labels.txt before the card and the names after it are for other tools
        place = (content.index if exported.format == "onnx" else content.rindex)(b"tulip")
    if spoil == "cut":
        del content[place:]
    else:
        content[place] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_classifier(path)


def test_other_tools_find_the_names_where_they_look():
    skip_without("onnx")
    skip_without("litert")
    with zipfile.ZipFile(export("litert").path) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)
    labels = export("savedmodel").path / "assets.extra" / "labels.txt"
    assert labels.read_text(encoding="utf-8").split() == list(CLASSES)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(export("onnx").path))
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(CLASSES)


def test_an_onnx_file_is_used_without_tensorflow_and_keras():
    skip_without("onnx")
    code = (
        "import sys, numpy as np\nfrom flowerkit import load_classifier\n"
        f"[p] = load_classifier({str(export('onnx').path)!r}).predict(np.zeros((40, 30), 'uint8'))\n"
        "print(len(p.classes), *({'tensorflow', 'keras', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4"]


def test_an_exported_keras_file_is_exported_again_with_its_card(tmp_path):
    again = export_model(export("keras").path, tmp_path / "again.keras", "keras")
    assert again.card == export("keras").card
    assert again.difference == 0


def test_a_keras_file_without_a_card_is_refused(tmp_path):
    build().save(tmp_path / "bare.keras")
    with pytest.raises(ValueError, match=r"bare\.keras has no model card.* run folder"):
        export_model(tmp_path / "bare.keras", tmp_path / "out.keras", "keras")
    assert [path.name for path in tmp_path.iterdir()] == ["bare.keras"]


@in_child
def test_a_layer_that_switches_to_training_does_not_do_so_in_an_export(tmp_path):
    """Keras's own Resizing does."""
    inner = build_classifier(2, image_size=48, backbone="tiny", weights=None)
    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, inner(keras.layers.Resizing(48, 48)(pixels)))
    export = export_model(save(model, tmp_path), format="savedmodel")
    assert export.difference < 1e-5


@in_child
def test_a_model_of_mixed_precision_is_exported_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        path = save(build(), tmp_path)
    finally:
        keras.config.set_dtype_policy(before)
    export = export_model(path, format="savedmodel")
    assert export.was_mixed
    assert "float32" in str(export)


def test_an_export_that_predicts_something_else_is_not_kept(tmp_path, monkeypatch):
    """The converter writes another model, as a faulty one would."""
    other = save(build(), tmp_path / "other")
    monkeypatch.setattr(
        type(FORMATS["keras"]), "convert", lambda self, source, target: shutil.copy(other, target)
    )
    out = tmp_path / "out" / "m.keras"
    out.parent.mkdir()
    out.write_text("older")
    with pytest.raises(RuntimeError, match=r"m\.keras .* not kept"):
        export_model(save(build(), tmp_path), out, "keras")
    assert list(out.parent.iterdir()) == [out]
    assert out.read_text() == "older"


@in_child
def test_a_model_that_does_not_convert_is_refused_with_the_converters_reason(tmp_path, monkeypatch):
    def convert(self, source, target):
        raise TypeError("first line\nOp Foo is not supported")

    monkeypatch.setattr(type(FORMATS["savedmodel"]), "convert", convert)
    with pytest.raises(RuntimeError, match="'savedmodel': Op Foo is not supported"):
        export_model(train_on_photos("pad"), tmp_path / "out", "savedmodel")


@in_child
def test_an_older_export_is_replaced_and_nothing_else(tmp_path):
    shutil.copytree(export("savedmodel").path, tmp_path / "out")
    (tmp_path / "out" / "older").touch()
    export_model(train_on_photos("pad"), tmp_path / "out", "savedmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "older").exists()
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="photos exists.*--out"):
        export_model(train_on_photos("pad"), tmp_path / "photos", "savedmodel")


def test_the_arguments_are_checked_first(tmp_path):
    run = train_on_photos("pad")
    with pytest.raises(FileNotFoundError, match=r"no model .*none"):
        export_model(tmp_path / "none", tmp_path / "m.keras", "keras")
    with pytest.raises(ValueError, match=r"m\.onnx: .*'keras' ends in \.keras"):
        export_model(run, tmp_path / "m.onnx", "keras")
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ValueError, match="is an export already"):
        export_model(tmp_path / "m.onnx", tmp_path / "m.keras", "keras")
    with pytest.raises(ValueError, match="Did you mean 'onnx'"):
        export_model(run, format="onxx")


def test_an_export_prints_as_a_line():
    text = str(replace(export("keras"), num_bytes=1_600_000, difference=2e-7))
    assert text.endswith(
        "classifier.keras: keras, 1.6 MB, 4 classes, 32 px, probabilities within 2e-07 of the run's"
    )


# Models of other origin ---------------------------------------------------------------------------


def end(layer=None, *, width=3, shape=(32, 32, 3)):
    """A classifier whose last layer is `layer`."""
    pixels = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(pixels)  # so that no sigmoid is 0 or 1
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.Dense(width)(x)
    return keras.Model(pixels, layer(x) if layer else x)


def save_for(model, folder, names=("a", "b", "c")):
    model.save(folder / "bare.keras")
    card = ModelCard(names, 32, "crop")
    rewrite_keras(folder / "bare.keras", folder / "m.keras", card=card)
    return folder / "m.keras"


@pytest.mark.backends
@pytest.mark.parametrize(
    "layer",
    [
        None,
        keras.layers.Activation("sigmoid"),
        keras.layers.Activation("relu"),
        keras.layers.Activation("log_softmax"),
        keras.layers.Rescaling(float("nan")),
        keras.layers.Softmax(axis=0),
    ],
)
def test_what_is_not_probabilities_is_neither_exported_nor_used(layer, tmp_path):
    path = save_for(end(layer), tmp_path)
    message = r"m\.keras does not give probabilities: a row of its output is \[.*layers.Softmax\(\)"
    for format in ("keras",) if ON_JAX else FORMATS:
        with pytest.raises(ValueError, match=message):
            export_model(path, tmp_path / FORMATS[format].file, format)
    with pytest.raises(ValueError, match=message):
        load_classifier(path).predict(draw_photo("rose"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bare.keras", "m.keras"]


def test_logits_do_not_name_a_class(tmp_path):
    """-2, -1 and -4, each over their sum, would make c the most probable."""
    model = end()
    model.layers[-1].set_weights([np.zeros((4, 3)), np.array([-2.0, -1.0, -4.0])])
    path = save_for(model, tmp_path)
    with pytest.raises(ValueError, match=r"\[-2, -1, -4\] with the sum -7"):
        load_classifier(path).predict(draw_photo("rose"))
    softmax = keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))
    prediction = load_classifier(save_for(softmax, tmp_path)).predict(draw_photo("rose"))[0]
    assert prediction.name == "b"


@pytest.mark.backends
def test_a_model_of_free_sizes_is_exported_at_the_size_of_its_card(tmp_path):
    path = save_for(end(keras.layers.Softmax(), shape=(None, None, 3)), tmp_path)
    expected = load_classifier(path).predict(draw_photo("rose"))[0].probabilities
    for format in ("keras", "onnx") if ON_JAX else FORMATS:
        skip_without(format)
        export = export_model(path, tmp_path / FORMATS[format].file, format)
        found = load_classifier(export.path).predict(draw_photo("rose"))[0].probabilities
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: end(keras.layers.Softmax(), shape=(32, 48, 3)),
            r"shape \(32, 48, 3\) and has 3 outputs, but its model card describes 32 x 32 px and 3",
        ),
        (
            lambda: end(keras.layers.Softmax(), shape=(32, 32, 1)),
            r"shape \(32, 32, 1\) and has 3 outputs",
        ),
        (lambda: end(keras.layers.Softmax(), width=4), "has 4 outputs, but .* 3 classes"),
        (
            lambda: end(keras.layers.Activation("sigmoid"), width=1),
            "has 1 outputs, but .* 3 classes",
        ),
        (
            lambda: keras.Model((one := end(keras.layers.Softmax())).inputs, one.outputs * 2),
            r"to \(None, 3\) and \(None, 3\); a classifier maps images .* Choose one input",
        ),
        (
            lambda: keras.Model(pixels := keras.Input((32, 32, 3)), keras.layers.Softmax()(pixels)),
            r"to \(None, 32, 32, 3\); a classifier maps images",
        ),
    ],
)
def test_what_is_no_classifier_of_such_images_is_refused_by_all_formats_alike(
    model, message, tmp_path
):
    path = save_for(model(), tmp_path)
    for format in FORMATS:
        skip_without(format)
        with pytest.raises(ValueError, match=message):
            export_model(path, tmp_path / FORMATS[format].file, format)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bare.keras", "m.keras"]


def test_a_layer_that_is_not_registered_is_refused_by_all_formats_alike(tmp_path):
    class Unregistered(keras.layers.Softmax):
        pass

    path = save_for(end(Unregistered()), tmp_path)
    for format in FORMATS:
        with pytest.raises(
            ValueError, match="needs your class Unregistered.*register_keras_serial"
        ):
            export_model(path, tmp_path / FORMATS[format].file, format)


@pytest.mark.backends
def test_a_layer_of_a_users_own_module_is_exported_on_both_backends(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    (tmp_path / "my_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Halved(keras.layers.Layer):\n"
        "    def call(self, inputs): return inputs / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_layers

    inner = end(my_layers.Halved())
    model = keras.Model(inner.inputs, keras.layers.Softmax()(inner.outputs[0]))
    export = export_model(save_for(model, tmp_path), format="savedmodel")
    assert export.difference < 1e-5
