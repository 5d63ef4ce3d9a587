"""exports, conversion and runtimes: every format answers as the run does, and says what it is."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from exported_run import CLASSES, export, make_run, needed

from flowerkit.data.split import load_split
from flowerkit.deploy import exports
from flowerkit.deploy.card import ModelCard
from flowerkit.deploy.exports import export_model
from flowerkit.deploy.formats import FORMATS
from flowerkit.deploy.runtimes import open_runtime
from flowerkit.models.classifier import build_classifier, load_model
from flowerkit.prediction.predictions import predict

pytestmark = pytest.mark.backends

CARD = ModelCard(CLASSES, 32, "crop", 0.75, "tiny", "drawn")


ON_JAX = keras.backend.backend() == "jax"
in_child = pytest.mark.skipif(ON_JAX, reason="as on TensorFlow, in a process that takes seconds")


# With JAX the others take the same road as ONNX.
@pytest.fixture(params=["keras", "onnx"] if ON_JAX else FORMATS)
def exported(request):
    for module in needed(request.param):
        pytest.importorskip(module)
    return export(request.param)


def test_an_export_answers_as_the_run_does_on_val(exported, drawn):
    val = load_split(drawn, "val")
    ours = predict(load_model(make_run()), val, global_batch=8).probabilities
    runtime = open_runtime(exported.path)
    theirs = runtime.run(np.asarray(val.images[:16]).astype("float32"))
    np.testing.assert_allclose(theirs, ours[: len(theirs)], atol=1e-4)
    assert np.ptp(ours, axis=0).max() > 0.1  # a model that says the same of all would prove nothing
    assert exported.difference < 1e-4


def test_the_contract_stands_inside(exported):
    runtime = open_runtime(exported.path)
    assert runtime.card == exported.card == CARD
    assert (tuple(runtime.input_shape), runtime.num_classes) == ((32, 32, 3), 4)
    assert runtime.format == exported.format


def test_nothing_but_the_export_is_left_behind(exported):
    left = sorted(path.name for path in make_run().iterdir())
    ours = {one.file for one in FORMATS.values()}
    known = {"model.keras", "environment.json", "plan.json", "result.json"}
    assert exported.path.name in ours
    assert set(left) <= ours | known


@in_child
def test_other_tools_find_the_names_where_they_look():
    for format in ("onnx", "litert"):
        for module in needed(format):
            pytest.importorskip(module)
    with zipfile.ZipFile(export("litert").path) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)
    labels = export("savedmodel").path / "assets.extra" / "labels.txt"
    assert labels.read_text(encoding="utf-8").split() == list(CLASSES)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(export("onnx").path))
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(CLASSES)


def test_an_onnx_file_is_used_without_tensorflow_and_keras():
    for module in needed("onnx"):
        pytest.importorskip(module)
    code = (
        "import sys, numpy as np\nfrom flowerkit.deploy.classifier import Classifier\n"
        f"answer = Classifier.load({str(export('onnx').path)!r}).predict(np.zeros((40, 30), 'uint8'))\n"
        "print(len(answer[0].classes), *({'tensorflow', 'keras', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4"]


def test_an_exported_keras_file_is_exported_again_with_what_it_knows(tmp_path):
    again = export_model(export("keras").path, tmp_path / "again.keras", "keras")
    assert again.card == CARD
    assert again.difference == 0


def test_a_model_without_a_run_needs_names(tmp_path):
    model = load_model(make_run())
    named = export_model(model, tmp_path / "m.keras", "keras", class_names=list("abcd"), fit="pad")
    assert named.card == ModelCard(("a", "b", "c", "d"), 32, "pad")
    with pytest.raises(ValueError, match="does not say what its 4 classes are called"):
        export_model(model, tmp_path / "n.keras", "keras")
    with pytest.raises(ValueError, match="3 class names for a model of 4 outputs"):
        export_model(model, tmp_path / "n.keras", "keras", class_names=list("abc"))
    with pytest.raises(ValueError, match="out is needed"):
        export_model(model, None, "keras", class_names=list("abcd"))
    assert not (tmp_path / "n.keras").exists()


@in_child
def test_a_layer_that_switches_to_training_does_not_do_so_in_an_export(tmp_path):
    """Keras's own Resizing does, in models that an older flowerkit trained."""
    inner = build_classifier(2, image_size=48, backbone="tiny", weights=None)
    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, inner(keras.layers.Resizing(48, 48)(pixels)))
    done = export_model(model, tmp_path / "out", "savedmodel", class_names=["a", "b"])
    assert done.difference < 1e-5


@in_child
def test_a_model_of_mixed_precision_is_exported_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_classifier(2, image_size=32, backbone="tiny", weights=None)
    finally:
        keras.config.set_dtype_policy(before)
    done = export_model(model, tmp_path / "out", "savedmodel", class_names=["a", "b"])
    assert done.was_mixed
    assert str(done).endswith("; trained in mixed precision, exported in float32")


def test_an_export_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    """Keras's writer is replaced by one that writes another model, as a converter's fault would."""
    other = build_classifier(4, image_size=32, backbone="tiny", weights=None)
    monkeypatch.setattr(exports, "_write", lambda plain, target, kind, card: other.save(target))
    (tmp_path / "m.keras").write_text("older")
    with pytest.raises(RuntimeError, match=r"m\.keras would predict otherwise .*it was not kept"):
        export_model(make_run(), tmp_path / "m.keras", "keras")
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
    assert (tmp_path / "m.keras").read_text() == "older"


@in_child
def test_an_older_export_is_replaced_and_nothing_else(tmp_path):
    shutil.copytree(export("savedmodel").path, tmp_path / "out")
    (tmp_path / "out" / "older").touch()
    export_model(make_run(), tmp_path / "out", "savedmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "older").exists()
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="photos is there and no older export"):
        export_model(make_run(), tmp_path / "photos", "savedmodel")


def test_what_is_exported_and_where_is_checked_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model .*none"):
        export_model(tmp_path / "none", tmp_path / "m.keras", "keras")
    with pytest.raises(
        ValueError, match=r"m\.onnx: an export of the format 'keras' ends in \.keras"
    ):
        export_model(make_run(), tmp_path / "m.onnx", "keras")
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ValueError, match="is an export already"):
        export_model(tmp_path / "m.onnx", tmp_path / "m.keras", "keras")
    with pytest.raises(ValueError, match="Did you mean 'onnx'"):
        export_model(make_run(), format="onxx")


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_export_is_told(format, tmp_path):
    for module in needed(format):
        pytest.importorskip(module)
    path = tmp_path / FORMATS[format].file
    if FORMATS[format].is_folder:
        path.mkdir()
    (path / "saved_model.pb" if path.is_dir() else path).write_bytes(b"damaged, all of it")
    with pytest.raises(ValueError, match=rf"{path.name} .*damaged"):
        open_runtime(path)


def test_an_export_prints_as_a_line():
    text = str(replace(export("keras"), num_bytes=1_600_000, difference=2e-7))
    assert text.endswith(
        "classifier.keras: keras, 1.6 MB, 4 classes, 32 px, probabilities within 2e-07 of the run's"
    )
