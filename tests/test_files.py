import json
import os
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowerkit.files import (
    explain_unpacking,
    find_free_folder,
    read_dataclass,
    read_json,
    replacing,
    write_dataclass,
    write_json,
    write_text,
)

# The kernel refuses to let any file grow past the limit, as a full disk would.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
SAVE_CSV = """
from flowerkit.submission import write_submission
write_submission(path, [f"{number:09x}" for number in range(7382)], [0] * 7382)
"""
SAVE_MODEL = """
import keras
from flowerkit.models.classifier import build_classifier, save_classifier
model = build_classifier(4, image_size=32, backbone="tiny", weights=None)
save_classifier(model, path)
"""
SAVE_WEIGHTS = """
import keras
from flowerkit.training.validation import save_weights
from flowerkit.models.classifier import build_classifier
save_weights(build_classifier(4, image_size=32, backbone="tiny", weights=None), path)
"""


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "notes.txt"  # the folder is made
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["notes.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    target = tmp_path / "notes.txt"
    target.write_text("old")

    def write_half():
        with replacing(target) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.keras", ".keras"), ("best.weights.h5", ".weights.h5"), ("v.npz", ".npz"), ("plain", "")],
)
def test_the_temporary_file_keeps_the_suffix_that_writers_choose_the_format_by(
    tmp_path, name, suffix
):
    with replacing(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(suffix)
        assert temporary.name != name
        temporary.touch()


def test_text_and_json_are_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "장미\n")
    assert (tmp_path / "a.txt").read_bytes() == "장미\n".encode()
    write_json(tmp_path / "a.json", {"name": "장미"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "장미"\n}\n'


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_json_is_read_back_with_the_mark_that_windows_editors_put_in_front(tmp_path):
    write_json(tmp_path / "a.json", {"name": "장미"})
    assert read_json(tmp_path / "a.json") == {"name": "장미"}
    (tmp_path / "b.json").write_text('{"name": "장미"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "b.json") == {"name": "장미"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a": 1,}', r"a.json is not JSON: .*line 1 column"),
        (b"\xff\xfe", r"a.json is not JSON: 'utf-8' codec can't decode byte"),
        (b"[1, 2]", r"a.json must hold a plan, not \[1, 2\]$"),
        (json.dumps([0] * 9999).encode(), r"must hold a plan, not \[0, 0, 0, 0, 0, 0, \.\.\.\]$"),
    ],
)
def test_what_is_no_json_object_is_named_with_its_file(tmp_path, content, sentence):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_json(tmp_path / "a.json", what="a plan")


@dataclass(frozen=True)
class Card:
    name: str
    petals: int = 5

    def __post_init__(self):
        if self.petals < 0:
            raise ValueError(f"petals is {self.petals}")


def test_a_dataclass_comes_back_and_unknown_keys_are_skipped(tmp_path):
    write_dataclass(tmp_path / "card.json", Card("rose", 7))
    assert read_dataclass(tmp_path / "card.json", Card, remedy="") == Card("rose", 7)
    write_json(tmp_path / "card.json", {"name": "rose", "colour": "red"})
    assert read_dataclass(tmp_path / "card.json", Card, remedy="") == Card("rose")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"there is no .*card\.json\. Draw it again\.$"),
        ("{", r"card\.json is not JSON: .*\. Draw it again\.$"),
        ('{"petals": 5}', r"card\.json lacks name\. Draw it again\.$"),
        ('{"name": "a", "petals": -1}', r"card\.json is damaged: petals is -1\. Draw it again\.$"),
        ('{"name": "a", "petals": "x"}', r"card\.json is damaged: .*\. Draw it again\.$"),
    ],
)
def test_a_file_that_makes_no_dataclass_is_named_with_the_remedy(tmp_path, content, sentence):
    if content:
        (tmp_path / "card.json").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=sentence):
        read_dataclass(tmp_path / "card.json", Card, remedy="Draw it again.")


def test_a_free_folder_has_the_next_number_and_is_not_made(tmp_path):
    assert find_free_folder(tmp_path / "runs", "demo") == tmp_path / "runs" / "demo-1"
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    (tmp_path / "runs" / "demo-3").mkdir()
    assert find_free_folder(tmp_path / "runs", "demo") == tmp_path / "runs" / "demo-2"
    assert not (tmp_path / "runs" / "demo-2").exists()


@pytest.mark.parametrize(
    ("save", "name"),
    [(SAVE_CSV, "submission.csv"), (SAVE_MODEL, "model.keras"), (SAVE_WEIGHTS, "best.weights.h5")],
    ids=["csv", "model", "checkpoint"],
)
def test_a_full_disk_leaves_the_old_file_intact(tmp_path, save, name):
    path = tmp_path / name
    path.write_text("the old one")
    # Imported without the limit: TensorFlow may write caches of its own.
    imports = "".join(
        line + "\n" for line in save.splitlines() if line.startswith(("import", "from"))
    )
    code = imports + LIMIT + f"path = {str(path)!r}\n" + save
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0  # HDF5 may even crash at the exit of such a process
    assert "File too large" in done.stderr
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_not_utf_8_survives_json(tmp_path):
    values = {"class_names": ["half\ud800", "수국"]}
    write_json(tmp_path / "names.json", values)
    assert read_json(tmp_path / "names.json") == values


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("data/photos.tar", "mkdir photos && tar -xf data/photos.tar -C photos"),
        ("Photos.TGZ", "mkdir Photos && tar -xf Photos.TGZ -C Photos"),
        ("my photos.zip", "python -m zipfile -e 'my photos.zip' 'my photos'"),
        ("a.7z", "7z x a.7z -oa"),
        (
            Path("https://example.org/a b/102flowers.tgz?raw=1"),
            "curl -L -o 102flowers.tgz 'https://example.org/a b/102flowers.tgz?raw=1' && mkdir "
            "102flowers && tar -xf 102flowers.tgz -C 102flowers",
        ),
        (
            "https://www.kaggle.com/datasets/alxmamaev/flowers-recognition?select=x",
            "kaggle datasets download alxmamaev/flowers-recognition --unzip -p photos",
        ),
    ],
)
def test_an_archive_and_an_address_are_answered_with_a_command(path, command):
    assert explain_unpacking(path).partition(": ")[2] == command


def test_the_command_unpacks_and_a_korean_zip_gets_its_encoding(tmp_path):
    plain, korean = tmp_path / "plain.zip", tmp_path / "꽃 사진.zip"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("장미/1.jpg", b"1")
    name = "장미/1.jpg".encode("cp949")
    placeholder = "a" * len(name)
    with zipfile.ZipFile(korean, "w") as archive:
        archive.writestr(placeholder, b"1")
    korean.write_bytes(korean.read_bytes().replace(placeholder.encode(), name))
    for file in (plain, korean):
        command = explain_unpacking(file).partition(": ")[2]
        assert ("--metadata-encoding cp949" in command) == (file == korean)
        python, *words = shlex.split(command)
        assert python == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
        assert (tmp_path / file.stem / "장미" / "1.jpg").read_bytes() == b"1"


def test_what_is_no_archive_has_no_command():
    assert explain_unpacking("photos") is None
    assert explain_unpacking("photos/rose.jpg") is None
