"""What tests ask of a bundle: made anew, its first cell, the files in it."""

import base64
import io
import json
import lzma
import re
import zipfile
from pathlib import Path

from flowerkit.kaggle.bundle import BUNDLE, SOURCE, build_bundle

ROOT = Path(__file__).parents[1]


def build(root):
    return json.dumps(build_bundle(notebook=root / SOURCE, package=root / "flowerkit"))


def read_cell(bundle):
    """The source of the cell that holds the package."""
    return next("".join(cell["source"]) for cell in bundle["cells"] if cell["id"] == "package")


def find_held(root):
    """The files of the package in the bundle of a checkout."""
    cell = "".join(json.loads((root / BUNDLE).read_text(encoding="utf-8"))["cells"][2]["source"])
    text = re.search(r'PACKAGE = """\n(.*?)\n"""', cell, re.DOTALL)[1]
    archive = lzma.decompress(base64.b64decode("".join(text.split())))
    return {Path(name).name for name in zipfile.ZipFile(io.BytesIO(archive)).namelist()}
