"""The notebook that is pushed to Kaggle: notebook 01 with the package in its first code cell.

`kaggle kernels push` uploads one file and forgets a package beside it, so the package travels inside,
as a deterministic zip, compressed as one piece: two thirds of what its files take one by one. It
needs no internet to unpack, and nothing but Python. All that Python code is offered goes along; the
command line and what serves it alone stay at home, because Kaggle takes small notebooks only.
"""

import ast
import base64
import binascii
import hashlib
import io
import lzma
import os
import re
import string
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowerkit.files import read_json

SOURCE = "notebooks/01_petals_to_the_metal.ipynb"
BUNDLE = "notebooks/kaggle/petals.ipynb"
TENSORFLOW_CPU = "tensorflow-cpu>=2.18,<2.22"  # the bounds of pyproject.toml

_LINE_CHARS = 100
_REFRESH = "Run `flowerkit bundle`."
_RESTORE = "Mend it, or get it back with git."
_PACKAGE = re.compile(r'^PACKAGE = """\n(.*?)\n"""$', re.MULTILINE | re.DOTALL)

# Not a parser, which takes a second for all files, and stumbles over a notebook's %magics.
_IMPORT = re.compile(
    r"^[ \t]*(?:import flowerkit\.(?=\w)|from flowerkit\.(?=\w)|from flowerkit import )"
    r"(?:(?<=flowerkit\.)(\w+)|(\([^)]*\)|[^\n]*))",
    re.MULTILINE,
)

_EXPLANATION = """\
**The package, before anything else.** A pushed notebook arrives alone, so the next cell holds
`flowerkit` without its command line. If none is installed, it is unpacked into a temporary folder;
either way the cell says which one runs. It downloads nothing, except on Colab's TPU, which has no
TensorFlow.
"""
_CELL = string.Template('''\
# Written by `flowerkit bundle` from flowerkit/ and notebook 01: change those, not this.
import base64, hashlib, importlib.util, io, lzma, subprocess, sys, tempfile, zipfile

PACKAGE = """
$package
"""
VERSION = "$version"
SHA256 = "$sha256"

spec = importlib.util.find_spec("flowerkit")
if spec and spec.origin:  # a mere folder of that name has no origin
    found = f"is installed here ({spec.origin}); the {VERSION} in this notebook stays packed"
else:
    text = "".join(PACKAGE.split())
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise RuntimeError(
            f"the package in this cell is damaged: its sha256 is not {SHA256[:12]}... Make the notebook "
            "anew with `flowerkit bundle`, and push or open that one."
        )
    folder = tempfile.mkdtemp(prefix="flowerkit-")
    archive = lzma.decompress(base64.b64decode(text))
    zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
    sys.path.insert(0, folder)
    found = f"comes from this notebook (sha256 {SHA256[:12]}, unpacked into {folder})"

if "google.colab" in sys.modules and importlib.util.find_spec("tensorflow") is None:
    print("no TensorFlow here, as on Colab's TPU: installing tensorflow-cpu, which feeds the images")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "$tensorflow_cpu"]
    subprocess.run(install, check=True)
    importlib.invalidate_caches()

import flowerkit

print("flowerkit", flowerkit.__version__, found)
''')


@dataclass(frozen=True)
class Problem:
    """Why a push would fail or land wrong, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}"


def build_bundle(*, notebook: str | os.PathLike, package: str | os.PathLike) -> dict:
    """The notebook to push: `notebook`, stripped, with the folder `package` (flowerkit/) in a cell.

    The LICENSE beside the folder goes along. The same files give the same notebook, byte for byte.
    Raises FileNotFoundError where either is missing, ValueError for a notebook that is none.
    """
    package = Path(package)
    _check_checkout(package)
    try:
        source = read_notebook(notebook)
        files = _read_package(package, source)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{error}. {_RESTORE}") from error
    return _insert_package(source, files, _pack(files))


def check_bundle(root: str | os.PathLike) -> list[Problem]:
    """What differs between the committed notebook and the one that the checkout at `root` makes now.

    The files in the zip are compared, not its bytes, which another liblzma may pack in another way.
    Raises FileNotFoundError where `root` is no checkout.
    """
    root = Path(root)
    _check_checkout(root / "flowerkit")
    try:
        notebook = read_notebook(root / SOURCE)
        files = _read_package(root / "flowerkit", notebook)
    except (FileNotFoundError, ValueError) as error:
        return [Problem(str(error), _RESTORE)]
    try:
        bundle = read_notebook(root / BUNDLE)
    except (FileNotFoundError, ValueError) as error:
        return [Problem(str(error), _REFRESH)]
    archive = _find_archive(bundle)
    held = _unpack(archive)
    if not held:
        return [Problem(f"{BUNDLE} holds no package that can be unpacked", _REFRESH)]
    changed = sorted(name for name in held.keys() | files if held.get(name) != files.get(name))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return [Problem(f"{BUNDLE} is stale: {changed[0]}{more} changed since", _REFRESH)]
    if bundle != _insert_package(notebook, files, archive):
        return [
            Problem(f"{BUNDLE} is stale: {SOURCE} changed since, or its own cells did", _REFRESH)
        ]
    return []


def read_notebook(path: str | os.PathLike) -> dict:
    """A notebook as its JSON. Raises FileNotFoundError, or ValueError where it is no notebook."""
    notebook = read_json(path, what="a notebook")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(
        isinstance(cell, dict) and {"cell_type", "source"} <= cell.keys() for cell in cells
    ):
        raise ValueError(f"{path} is no notebook: it has no list of cells")
    return notebook


def _check_checkout(package: Path) -> None:
    if not (package / "__init__.py").is_file():
        raise FileNotFoundError(
            f"{package.parent.resolve()} is no checkout of flowerkit: it has no flowerkit/__init__.py. "
            "Go to the checkout, or pass --root FOLDER."
        )


def _read_package(package: Path, notebook: dict) -> dict[str, bytes]:
    """What goes along, by its name in the zip, sorted, with the line ends that the repository has."""
    rooms = ["__init__", *sorted(_find_rooms(package, notebook))]
    paths = {f"flowerkit/{room}.py": package / f"{room}.py" for room in rooms}
    if (package.parent / "LICENSE").is_file():
        paths["flowerkit/LICENSE"] = package.parent / "LICENSE"
    return {name: paths[name].read_text(encoding="utf-8").encode() for name in sorted(paths)}


def _find_rooms(package: Path, notebook: dict) -> set[str]:
    """The modules behind the public names, those that the notebook imports, and all that they need."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    opening = _read_source(package / "__init__.py")
    homes = [
        node.value
        for node in ast.parse(opening).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_HOME"
    ]
    wanted = {room for home in homes for room in ast.literal_eval(home).values()}
    wanted.update(*map(_find_imports, [opening, *code]))
    found = set()
    while wanted := {room for room in wanted - found if (package / f"{room}.py").is_file()}:
        found |= wanted
        wanted = set().union(*(_find_imports(_read_source(package / f"{r}.py")) for r in wanted))
    return found


def _find_imports(source: str) -> set[str]:
    """The modules of flowerkit that are imported in `source`, wherever that stands."""
    names = set()
    for module, several in _IMPORT.findall(source):
        names |= {module} if module else set(re.findall(r"\w+", several))
    return names


def _read_source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            # Date, system and permissions would otherwise be this machine's.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, content)
    return lzma.compress(buffer.getvalue(), preset=9)


def _unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a zip; none where it is no sound one."""
    try:
        with zipfile.ZipFile(io.BytesIO(lzma.decompress(archive))) as opened:
            return {name: opened.read(name) for name in opened.namelist()}
    except (zipfile.BadZipFile, lzma.LZMAError):
        return {}


def _insert_package(notebook: dict, files: Mapping[str, bytes], archive: bytes) -> dict:
    """The notebook, stripped, with the package's two cells after its title."""
    blank = {"execution_count": None, "outputs": []}
    cells = [cell | (blank if cell["cell_type"] == "code" else {}) for cell in notebook["cells"]]
    # Folded away where the site knows how: a thousand lines that nobody reads.
    folded = {"_kg_hide-input": True, "cellView": "form", "jupyter": {"source_hidden": True}}
    text = {
        "cell_type": "markdown",
        "id": "package-why",
        "metadata": {},
        "source": _split_lines(_EXPLANATION),
    }
    code = {
        "cell_type": "code",
        "execution_count": None,
        "id": "package",
        "metadata": folded,
        "outputs": [],
        "source": _split_lines(_write_cell(files, archive)),
    }
    return notebook | {"cells": [*cells[:1], text, code, *cells[1:]]}


def _write_cell(files: Mapping[str, bytes], archive: bytes) -> str:
    text = base64.b64encode(archive).decode()
    lines = (text[start : start + _LINE_CHARS] for start in range(0, len(text), _LINE_CHARS))
    opening = files["flowerkit/__init__.py"].decode()
    version = re.search(r'^__version__ = "(.+)"$', opening, re.MULTILINE)
    return _CELL.substitute(
        package="\n".join(lines),
        version=version[1] if version else "unknown version",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        tensorflow_cpu=TENSORFLOW_CPU,
    )


def _split_lines(text: str) -> list[str]:
    return text.rstrip("\n").splitlines(keepends=True)


def _find_archive(bundle: dict) -> bytes:
    """The zip in a notebook, as it stands there; empty where there is none."""
    for cell in bundle["cells"]:
        if found := _PACKAGE.search("".join(cell["source"])):
            try:
                return base64.b64decode("".join(found[1].split()))
            except binascii.Error:
                return b""
    return b""
