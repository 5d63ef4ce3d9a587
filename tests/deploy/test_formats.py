"""export_formats: which formats there are, what a file is, and which libraries are missing."""

import sys
from importlib import metadata

import pytest

from flowerkit.deploy import formats as export_formats
from flowerkit.deploy.formats import (
    FORMATS,
    check_libraries,
    detect_format,
    find_conflicts,
    find_format,
)


def test_formats_have_names_and_nicknames():
    assert list(FORMATS) == ["keras", "savedmodel", "onnx", "litert"]
    assert find_format("tflite") is FORMATS["litert"]
    assert [one.is_folder for one in FORMATS.values()] == [False, True, False, False]


def test_another_format_is_refused_with_what_was_meant():
    with pytest.raises(
        ValueError, match="one of keras, savedmodel, onnx, litert.*Did you mean 'onnx'"
    ):
        find_format("onx")


def test_files_and_folders_are_known_by_what_they_are(tmp_path):
    for name in ("a.keras", "a.onnx", "a.tflite"):
        (tmp_path / name).touch()
    found = [detect_format(tmp_path / name).name for name in ("a.keras", "a.onnx", "a.tflite")]
    assert found == ["keras", "onnx", "litert"]
    with pytest.raises(FileNotFoundError, match="has neither a model.keras .*nor a saved_model.pb"):
        detect_format(tmp_path)
    (tmp_path / "model.keras").touch()
    assert detect_format(tmp_path).name == "keras"
    (tmp_path / "saved_model.pb").touch()
    assert detect_format(tmp_path).name == "savedmodel"


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a\.csv is no model \(\.keras, \.onnx, \.tflite, a run"):
        detect_format(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match=r"no model .*none\.onnx"):
        detect_format(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("name", "module", "to_write", "line"),
    [
        (
            "onnx",
            "tf2onnx",
            True,
            "writing the format 'onnx' needs tf2onnx.*pip install onnx tf2onnx",
        ),
        ("onnx", "onnxruntime", False, "reading the format 'onnx' needs onnxruntime"),
        ("litert", "ai_edge_litert", False, "needs ai_edge_litert.*pip install ai-edge-litert"),
    ],
)
def test_a_missing_library_is_told_with_the_line_for_pip(monkeypatch, name, module, to_write, line):
    class Absent:
        def find_spec(self, wanted, path=None, target=None):
            if wanted.split(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    for loaded in [one for one in sys.modules if one.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    # Of the others only the one in question, whichever of them is installed.
    only = export_formats.Format(
        name, FORMATS[name].file, (module,), (module,), FORMATS[name].packages
    )
    with pytest.raises(RuntimeError, match=line):
        check_libraries(only, to_write=to_write)


def test_a_library_that_does_not_import_is_told_with_what_does_not_fit(monkeypatch, tmp_path):
    (tmp_path / "halfway.py").write_text(
        "raise TypeError('Descriptors cannot be created directly')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    declared = ["onnx 1.23.2 needs protobuf>=6.31.1, 5.29.6 is installed"]
    monkeypatch.setattr(export_formats, "find_conflicts", lambda packages: declared)
    broken = export_formats.Format("onnx", "m.onnx", ("halfway",), ("halfway",), ("onnx",))
    with pytest.raises(
        RuntimeError,
        match=r"halfway, which does not import: Descriptors .* do not fit: onnx 1\.23\.2 needs "
        r"protobuf>=6\.31\.1, 5\.29\.6 is installed\. Try: pip install onnx 'tensorflow",
    ):
        check_libraries(broken, to_write=True)


def test_conflicts_are_read_off_what_packages_declare(monkeypatch):
    wants = ["numpy>=9999", "numpy>=1", "nowhere-to-be-found>=2", "numpy>=9998; extra == 'more'"]
    monkeypatch.setattr(metadata, "requires", lambda package: wants)
    numpy = metadata.version("numpy")
    assert find_conflicts(["keras", "not-installed"]) == [
        f"keras {metadata.version('keras')} needs numpy>=9999, {numpy} is installed",
        f"keras {metadata.version('keras')} needs nowhere-to-be-found>=2, nothing is installed",
    ]
