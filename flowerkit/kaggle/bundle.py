"""The notebook that is pushed to Kaggle: notebook 01 with the package in its first code cell.

`kaggle kernels push` uploads one file, so the package travels inside it: one line a file, each
compressed with the file before it as its dictionary, so that a changed module is two changed lines.
"""

import base64
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowerkit.files import read_json
from flowerkit.text import join_some

SOURCE = "notebooks/01_petals_to_the_metal.ipynb"
BUNDLE = "notebooks/kaggle/petals.ipynb"
# Only a checkout uses these; all that `import flowerkit` offers in Python goes along.
LEFT_OUT = ("__main__.py", "cli/", "kaggle/", "deploy/serving.py", "deploy/label_review.py")

_REFRESH = "Run `flowerkit bundle`."
_LINE = re.compile(r'^"([\w./-]+)": "([^"]*)",$', re.MULTILINE)
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

_EXPLANATION = """\
**The package, before anything else.** A pushed notebook arrives alone, so the next cell holds
`flowerkit` without its command line. If none is installed, the cell unpacks it into a temporary
folder; either way it prints which one runs. It downloads nothing.
"""
_CELL = """\
# Written by `flowerkit bundle` from flowerkit/ and notebook 01: change those, not this.
import base64, hashlib, importlib.util, pathlib, sys, tempfile, zlib

PACKAGE = {
@LINES@
}

spec = importlib.util.find_spec("flowerkit")
if spec and spec.origin:  # a mere folder of that name has no origin
    source = f"is installed here ({spec.origin}); the package in this notebook stays packed"
else:
    files, before = {}, b" "
    try:
        for name, line in PACKAGE.items():  # the file before is each one's dictionary
            files[name] = zlib.decompressobj(zdict=before).decompress(base64.b85decode(line))
            before = files[name] or b" "
    except (ValueError, zlib.error):
        raise RuntimeError(
            "the package in this cell is damaged. Write the notebook again with `flowerkit bundle`, "
            "and push or open that one."
        ) from None
    folder = pathlib.Path(tempfile.mkdtemp(prefix="flowerkit-"))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sys.path.insert(0, str(folder))
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:12]
    source = f"comes from this notebook (sha256 {digest}, unpacked into {folder})"

import flowerkit

print("flowerkit", flowerkit.__version__, source)
"""


def build_bundle(root: str | os.PathLike) -> dict:
    """The notebook to push: notebook 01 of the checkout `root`, stripped, with the package in a cell.

    The same files give the same notebook, byte for byte. Raises FileNotFoundError where `root` is no
    checkout or lacks notebook 01, ValueError where that is no notebook.
    """
    files = _read_package(Path(root))
    lines, before = [], b" "
    for name, content in files.items():
        packer = zlib.compressobj(9, zdict=before)
        packed = base64.b85encode(packer.compress(content) + packer.flush()).decode()
        lines.append(f'"{name}": "{packed}",')
        before = content or b" "
    return _assemble(root, lines)


def check_bundle(root: str | os.PathLike) -> list[str]:
    """What differs between the committed notebook and the one that the checkout makes now, in sentences.

    It compares the unpacked files, because another zlib may pack them into other bytes. Raises as
    `build_bundle` does.
    """
    files = _read_package(Path(root))
    try:
        bundle = _read_notebook(Path(root, BUNDLE), _REFRESH)
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    found = [line for cell in bundle["cells"] for line in _LINE.finditer("".join(cell["source"]))]
    packed, before = {}, b" "
    try:
        for line in found:
            unpacker = zlib.decompressobj(zdict=before)
            packed[line[1]] = unpacker.decompress(base64.b85decode(line[2]))
            before = packed[line[1]] or b" "
    except (ValueError, zlib.error):
        return [f"{BUNDLE} holds a package that cannot be unpacked. {_REFRESH}"]
    changed = sorted(name for name in packed | files if packed.get(name) != files.get(name))
    if changed:
        return [f"{BUNDLE} is stale: {join_some(changed, 1)} changed since. {_REFRESH}"]
    if bundle != _assemble(root, [line[0] for line in found]):
        return [f"{BUNDLE} is stale: {SOURCE} or the bundle's own cells changed since. {_REFRESH}"]
    return []


def set_values(notebook: dict, values: Mapping[str, Any]) -> dict:
    """A bundle whose lines `NAME = ...` give these values instead, as --plan of a push does.

    Raises ValueError where it has not one such line for a name.
    """
    cells = [dict(cell) for cell in notebook["cells"]]
    for name, value in values.items():
        found = 0
        for cell in cells:
            line = re.compile(rf"^{name} = .*$", re.MULTILINE)
            text, count = line.subn(f"{name} = {json.dumps(value)}", "".join(cell["source"]))
            if count and cell["cell_type"] == "code":
                cell["source"] = text.splitlines(keepends=True)
                found += count
        if found != 1:
            raise ValueError(
                f"{BUNDLE} has {found} lines `{name} = ...`, and a push can set one. Restore that line "
                f"in {SOURCE}. {_REFRESH}"
            )
    return notebook | {"cells": cells}


def _read_notebook(path: Path, remedy: str) -> dict:
    notebook = read_json(path, what="a notebook", remedy=remedy)
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        raise ValueError(f"{path} is no notebook: it has no cells with text. {remedy}")
    return notebook


def _is_cell(cell: Any) -> bool:
    """Whether it has a type and, as text or lines of text, a source."""
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return False
    source = cell.get("source")
    lines = source if isinstance(source, list) else [source]
    return all(isinstance(line, str) for line in lines)


def _read_package(root: Path) -> dict[str, bytes]:
    """The files to pack by their sorted names, with the line ends that the repository has."""
    package = root / "flowerkit"
    if not (package / "__init__.py").is_file():
        raise FileNotFoundError(
            f"{root.resolve()} is no checkout of flowerkit: it has no flowerkit/__init__.py. "
            "Go to the checkout, or pass --root FOLDER."
        )
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.*")}
    files = {
        f"flowerkit/{name}": path.read_bytes().replace(b"\r\n", b"\n")
        for name, path in sorted(paths.items())
        if path.is_file()
        and path.suffix != ".pyc"
        and not any(part.startswith(".") for part in Path(name).parts)
        and not name.startswith(LEFT_OUT)
    }
    if (root / "LICENSE").is_file():
        files["LICENSE"] = (root / "LICENSE").read_bytes().replace(b"\r\n", b"\n")
    return files


def _assemble(root: str | os.PathLike, lines: list[str]) -> dict:
    """Notebook 01, stripped, with the package's two cells after its title.

    The notebook's own metadata stays behind: what Kaggle or Colab leaves there pins an image.
    """
    notebook = _read_notebook(Path(root, SOURCE), "Repair it, or restore it with git.")
    blank = {"execution_count": None, "outputs": []}
    cells = [cell | (blank if cell["cell_type"] == "code" else {}) for cell in notebook["cells"]]
    # Sites fold these lines away where they can.
    folded = {"_kg_hide-input": True, "cellView": "form", "jupyter": {"source_hidden": True}}
    text = {"cell_type": "markdown", "id": "package-why", "metadata": {}}
    text["source"] = _EXPLANATION.rstrip("\n").splitlines(keepends=True)
    code = {"cell_type": "code", "id": "package", "metadata": folded} | blank
    source = _CELL.replace("@LINES@", "\n".join(lines), 1)
    code["source"] = source.rstrip("\n").splitlines(keepends=True)
    return notebook | {"metadata": _METADATA, "cells": [*cells[:1], text, code, *cells[1:]]}
