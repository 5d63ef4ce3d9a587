import errno
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowerkit.files import (
    cache_folder,
    check_room,
    check_writable,
    explain_unpacking,
    find_free_folder,
    find_marked,
    locked,
    read_dataclass,
    read_json,
    remove_temporary,
    replacing,
    write_dataclass,
    write_json,
    write_text,
    writing_to,
)
from flowerkit.training.run_folder import RunFolder

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
from flowerkit.models.classifier import build_classifier
from flowerkit.training.run_folder import RunFolder
model = build_classifier(4, image_size=32, backbone="tiny", weights=None)
RunFolder(path).save_epoch("last", 2, model.save_weights)
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


FULL, CLOSED = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only")
HDF5 = RuntimeError("Can't write (file write failed: time = Fri\n, errno = 28, buf = 0x55)")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FULL, r"^no room on the disk of .*/out: .* (M|G)iB are free\. Pass another folder, or m"),
        (
            HDF5,
            r"^no room on the disk of .*/out: .* are free\. Pass another folder, or make room\.$",
        ),
        (CLOSED, r"/out cannot be written to \(Read-only file system\)\. Pass another folder\.$"),
    ],
    ids=["full", "HDF5 on a full disk", "read-only"],
)
def test_a_disk_that_takes_nothing_is_named_with_its_folder(tmp_path, error, sentence):
    for write in (writing_to(tmp_path / "out"), replacing(tmp_path / "out" / "a.txt")):
        with pytest.raises(OSError, match=sentence), write:
            raise error
    assert not any(tmp_path.glob("out/*"))


def test_the_folder_of_the_cache_is_named_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path))
    for error in (FULL, CLOSED):
        remedy = "et the variable FLOWERKIT_CACHE to another folder"
        with pytest.raises(OSError, match=remedy), writing_to(tmp_path / "features"):
            raise error


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="secret"), writing_to(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/secret.jpg")
    with pytest.raises(RuntimeError, match="the graph failed"), writing_to(tmp_path):
        raise RuntimeError("the graph failed")


def test_room_is_missing_before_anything_is_written(tmp_path):
    check_room(tmp_path / "out", 2**20)
    with pytest.raises(
        OSError, match=r"no room .*/out: 1073741824\.00 GiB are needed, .* are free"
    ):
        check_room(tmp_path / "out", 2**60)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"/file/out cannot be written to \(Not a directory\)"):
        check_room(tmp_path / "file" / "out")
    assert not any((tmp_path / "out").iterdir())


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


def run_on_a_full_disk(path, save):
    # Imported without the limit: TensorFlow may write caches of its own.
    imports = "".join(
        line + "\n" for line in save.splitlines() if line.startswith(("import", "from"))
    )
    code = imports + LIMIT + f"path = {str(path)!r}\n" + save
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0  # HDF5 may even crash at the exit of such a process
    assert "File too large" in done.stderr


@pytest.mark.parametrize(
    ("save", "name"), [(SAVE_CSV, "submission.csv"), (SAVE_MODEL, "model.keras")]
)
def test_a_full_disk_leaves_the_old_file_intact(tmp_path, save, name):
    path = tmp_path / name
    path.write_text("the old one")
    run_on_a_full_disk(path, save)
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == [name]


def test_a_full_disk_leaves_the_state_of_the_epoch_before(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_epoch("last", 1, lambda path: path.write_text("the old one"))
    run_on_a_full_disk(tmp_path, SAVE_WEIGHTS)
    assert folder.find_epoch("last", 1).read_text() == "the old one"
    assert len(os.listdir(tmp_path / "checkpoints")) == 1


def test_what_changed_after_it_was_written_is_seen(tmp_path, caplog):
    with replacing(tmp_path / "a.weights.h5", marked=True) as temporary:
        temporary.write_bytes(b"rose")
    found = find_marked(tmp_path / "a.weights.h5")
    assert found.name == "a-9a3384f4.weights.h5"
    found.write_bytes(b"rosf")
    assert find_marked(tmp_path / "a.weights.h5") is None
    assert f"{found} is damaged" in caplog.text
    write_dataclass(tmp_path / "card.json", Card("rose", 5))
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(text.replace("5,", "7,"))
    with pytest.raises(ValueError, match=r"card\.json is damaged or was changed by hand.*Draw it"):
        read_dataclass(tmp_path / "card.json", Card, remedy="Draw it again.")
    (tmp_path / "card.json").write_text('{"name": "rose", "petals": 7}')  # made by hand
    assert read_dataclass(tmp_path / "card.json", Card, remedy="") == Card("rose", 7)


def test_a_lock_keeps_others_out_and_names_who_has_it(tmp_path):
    pytest.importorskip("fcntl")
    with (
        locked(tmp_path / "lock", "training"),
        pytest.raises(FileExistsError, match=rf"process {os.getpid()} on .* is training\."),
        locked(tmp_path / "lock", "training"),
    ):
        pass
    (tmp_path / "lock").write_text("process 1 on another")  # it was killed
    with locked(tmp_path / "lock", "training"):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {platform.node()}"
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    for name in (".a-12.h5", ".last-0001.weights-7.weights.h5", ".git-keep", ".lock", "a-12.h5"):
        (tmp_path / name).touch()
    remove_temporary(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".git-keep", ".lock", "a-12.h5"]


def test_a_name_that_is_not_utf_8_survives_json(tmp_path):
    values = {"class_names": ["half\ud800", "수국"]}
    write_json(tmp_path / "names.json", values)
    assert read_json(tmp_path / "names.json") == values


def test_the_cache_is_in_the_chosen_folder_or_beside_the_users_other_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("FLOWERKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "flowerkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "flowerkit"
    monkeypatch.setenv("FLOWERKIT_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_a_user_without_a_home_has_a_cache_too(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FLOWERKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert cache_folder() == Path(tempfile.gettempdir()) / "flowerkit"


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
    nested = tmp_path / "nested.zip"
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("nested/장미/1.jpg", b"1")
        archive.writestr("__MACOSX/nested/1.jpg", b"")
    assert explain_unpacking(nested).startswith("Unpack it first, into nested: ")
    for file in (plain, korean, nested):
        command = explain_unpacking(file).partition(": ")[2]
        assert ("--metadata-encoding cp949" in command) == (file == korean)
        python, *words = shlex.split(command)
        assert python == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
        assert (tmp_path / file.stem / "장미" / "1.jpg").read_bytes() == b"1"


def test_what_is_no_archive_has_no_command():
    assert explain_unpacking("photos") is None
    assert explain_unpacking("photos/rose.jpg") is None


def test_a_folder_that_could_not_be_written_is_said_and_none_is_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file/run cannot be written to .* Pass another"):
        check_writable(tmp_path / "file" / "run")
    check_writable(tmp_path / "runs" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
