"""formats: what a file is, and which libraries are missing."""

import sys

import pytest
from exported_run import skip_without

from flowerkit.deploy import FORMATS, detect_format, load_classifier


def test_files_and_folders_are_recognised(tmp_path):
    for name in ("a.keras", "a.onnx", "a.tflite"):
        (tmp_path / name).touch()
    found = [detect_format(tmp_path / name).name for name in ("a.keras", "a.onnx", "a.tflite")]
    assert found == ["keras", "onnx", "litert"]
    (tmp_path / "model.keras").touch()
    assert detect_format(tmp_path).name == "keras"
    (tmp_path / "saved_model.pb").touch()
    assert detect_format(tmp_path).name == "savedmodel"


def test_what_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "a.csv").touch()
    for path in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(ValueError, match=r"is not a model.* \.keras, \.onnx or \.tflite"):
            detect_format(path)
    with pytest.raises(FileNotFoundError, match=r"no model .*none\.onnx"):
        detect_format(tmp_path / "none.onnx")


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_model_is_refused_with_its_path(format, tmp_path):
    skip_without(format)
    path = tmp_path / FORMATS[format].file
    if FORMATS[format].is_folder:
        path.mkdir()
    (path / "saved_model.pb" if path.is_dir() else path).write_bytes(b"damaged, all of it")
    with pytest.raises(ValueError, match=rf"{path.name} .*damaged.* again"):
        load_classifier(path)


@pytest.mark.parametrize(
    ("format", "to_write", "module", "packages"),
    [
        ("onnx", True, "tf2onnx", "onnx tf2onnx onnxruntime"),
        ("onnx", False, "onnxruntime", "onnx tf2onnx onnxruntime"),
        ("litert", False, "ai_edge_litert", "ai-edge-litert"),
    ],
)
def test_a_missing_library_is_named_with_the_line_for_pip(
    monkeypatch, format, to_write, module, packages
):
    monkeypatch.setattr(FORMATS[format], "writers", (module,), raising=False)
    monkeypatch.setattr(FORMATS[format], "readers", (module,), raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=f"{module}.* pip install {packages}"):
        FORMATS[format].check_libraries(to_write=to_write)


def test_a_library_that_does_not_import_is_named_with_its_error(monkeypatch, tmp_path):
    (tmp_path / "halfway.py").write_text("raise TypeError('Descriptors cannot be created')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(FORMATS["onnx"], "readers", ("halfway",))
    with pytest.raises(
        RuntimeError, match="halfway, which does not import .Descriptors .*pip check"
    ):
        FORMATS["onnx"].check_libraries(to_write=False)
