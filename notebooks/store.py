"""Run notebooks 01 to 04 and store them with their pictures: python notebooks/store.py [01 04]

It needs `pip install nbclient`. Pictures keep 128 colours. Of text, what differs between two runs on
the same machine is left out: times, and memory or a path from the root, with its brackets or its line.
Each runs in an empty folder, so that relative paths are the same. nbval compares the text of cells that
have the tag "nbval-check-output"; it is the same everywhere.
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
COLOURS = 128
# At the end of an epoch's and of a run's line.
PACE = re.compile(r"[;,]? +(\d+ min )?[\d.]+ s( an epoch,)? +[\d,]+ images/s")
UNSTABLE = re.compile(r"\d (s|ms|min)\b|\d/s\b|[MG]iB\b|(?<![\w.])(~?/|\w:\\)\w")
BRACKETS = re.compile(r" \([^()]*\)")


def main(numbers: list[str]) -> None:
    os.environ.pop("MPLBACKEND", None)  # IPython's own shows figures in the notebook
    for path in sorted(FOLDER.glob("0*.ipynb")):
        if not numbers or path.name[:2] in numbers:
            notebook = nbformat.read(path, 4)
            client = NotebookClient(notebook, timeout=None, startup_timeout=600)
            with tempfile.TemporaryDirectory() as empty:
                client.execute(cwd=empty)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    store(cell)
            notebook.metadata.language_info = {"name": "python"}
            nbformat.write(notebook, path)
            print(f"{path}: {path.stat().st_size:,} bytes")


def store(cell) -> None:
    """Keep the stable text of a cell, first, and small pictures."""
    tags = cell.metadata.get("tags")
    cell.metadata = {"tags": tags} if tags else {}
    kept, text = [], ""
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            text += output.text
        else:
            kept.append(output)
        if "image/png" in output.get("data", {}):
            output.data["image/png"], output.metadata = shrink(output.data["image/png"]), {}
    if not tags:
        text = BRACKETS.sub(lambda found: "" if UNSTABLE.search(found[0]) else found[0], text)
        lines = PACE.sub("", text).splitlines(keepends=True)
        text = "".join(line for line in lines if not UNSTABLE.search(line))
    if text:
        kept.insert(0, nbformat.v4.new_output("stream", name="stdout", text=text))
    cell.outputs = kept


def shrink(png: str) -> str:
    """A PNG in base64, with a palette."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image = image.quantize(COLOURS, kmeans=4, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
