"""The formats that a classifier is exported to: their names, and the libraries that each wants."""

import importlib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from flowerkit.text import did_you_mean


@dataclass(frozen=True)
class Format:
    """One format: what its file is called, and the modules that write and that read it.

    `packages` are what pip calls the ones that flowerkit itself does not require.
    """

    name: str
    file: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    packages: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether an export is a folder and not one file."""
        return not Path(self.file).suffix


FORMATS = {
    one.name: one
    for one in (
        Format("keras", "classifier.keras", (), ("keras",)),
        Format("savedmodel", "classifier-savedmodel", ("tensorflow",), ("tensorflow",)),
        Format(
            "onnx",
            "classifier.onnx",
            ("tensorflow", "onnx", "tf2onnx", "onnxruntime"),
            ("onnxruntime",),
            ("onnx", "tf2onnx", "onnxruntime"),
        ),
        Format(
            "litert",
            "classifier.tflite",
            ("tensorflow", "ai_edge_litert.interpreter"),
            ("ai_edge_litert.interpreter",),
            ("ai-edge-litert",),
        ),
    )
}
_ALSO = {"saved_model": "savedmodel", "tf": "savedmodel", "tflite": "litert", "lite": "litert"}
_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")


def find_format(name: str) -> Format:
    """The format of that name; ValueError for another, with what was perhaps meant.

    >>> find_format("tflite").file
    'classifier.tflite'
    """
    name = _ALSO.get(name, name)
    if name not in FORMATS:
        raise ValueError(
            f"format must be one of {', '.join(FORMATS)}. Received: format={name!r}."
            f"{did_you_mean(name, [*FORMATS, *_ALSO])}"
        )
    return FORMATS[name]


def detect_format(path: Path) -> Format:
    """What the model at `path` is, by its suffix, a folder by what lies in it.

    Raises FileNotFoundError if nothing is there or nothing of a model is in the folder, and
    ValueError for another kind of file.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return FORMATS["savedmodel"]
        if (path / "model.keras").is_file():
            return FORMATS["keras"]
        raise FileNotFoundError(
            f"{path} is no model: it has neither a model.keras (a run of `flowerkit train`) nor a "
            f"saved_model.pb. Pass a run folder, or a file that `flowerkit export` wrote."
        )
    if not path.exists():
        raise FileNotFoundError(f"no model {path}. Pass a run folder, or an export of one.")
    for one in FORMATS.values():
        if Path(one.file).suffix == path.suffix and not one.is_folder:
            return one
    kinds = ", ".join(Path(one.file).suffix for one in FORMATS.values() if not one.is_folder)
    raise ValueError(f"{path} is no model ({kinds}, a run folder or a SavedModel folder are).")


def check_libraries(one: Format, *, to_write: bool) -> None:
    """Import what writes or reads a format. Raises RuntimeError with the line for pip.

    A library that is there but does not import, as onnx beside another protobuf than it was made for,
    is an error too, with what the installed packages say they want.
    """
    for module in one.writers if to_write else one.readers:
        try:
            importlib.import_module(module)
        except Exception as error:  # protobuf raises errors of its own for a version that fits not
            raise RuntimeError(_explain(one, module, error, to_write=to_write)) from error


def _explain(one: Format, module: str, error: Exception, *, to_write: bool) -> str:
    work = f"{'writing' if to_write else 'reading'} the format {one.name!r}"
    remedy = f"pip install {' '.join(_list_packages(one))}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    package = module.split(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.startswith(package):
        return f"{work} needs {package}, which is not installed. Install it: {remedy}"
    declared = "; ".join(find_conflicts(["tensorflow", *one.packages]))
    conflicts = f" Versions that do not fit: {declared}." if declared else ""
    return f"{work} needs {package}, which does not import: {first}.{conflicts} Try: {remedy}"


def _list_packages(one: Format) -> list[str]:
    """What pip is to install; TensorFlow as it is, or pip would choose an onnx that breaks it."""
    pins = [f"'{name}=={metadata.version(name)}'" for name in _TENSORFLOWS if _is_installed(name)]
    return [*(one.packages or one.readers), *pins[:1]]


def find_conflicts(packages: Iterable[str]) -> list[str]:
    """What the installed `packages` want and do not have: "a 1.0 needs b>=2, 1.5 is installed"."""
    conflicts = []
    for package in filter(_is_installed, packages):
        for text in metadata.requires(package) or ():
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            found = metadata.version(wanted.name) if _is_installed(wanted.name) else "nothing"
            if found == "nothing" or not wanted.specifier.contains(found, prereleases=True):
                conflicts.append(
                    f"{package} {metadata.version(package)} needs {wanted.name}{wanted.specifier}, "
                    f"{found} is installed"
                )
    return conflicts


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def damaged(path: Path, what: str, error: Exception) -> ValueError:
    """The error for a model file that its own library does not read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kind = " It is cut off." if isinstance(error, zipfile.BadZipFile) else ""
    return ValueError(
        f"{path} is not read by {what}: {lines[0][:200]}.{kind} It is damaged or of another version: "
        f"export it again."
    )
