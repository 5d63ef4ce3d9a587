"""What a walk through folders meets: photos, links, junk, pipes, and names in any bytes."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowerkit.photos.listing import list_photos
from flowerkit.photos.walk import find_photos, name_paths, normalize_name, walk_photos
from flowerkit.text import readable

HANGUL = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), min_size=1, max_size=8)
BYTES = st.binary(min_size=1, max_size=12).filter(
    lambda raw: not set(raw) & set(b"/\0") and raw[:1] != b"."
)


def touch(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return folder


def test_photos_are_found_at_any_depth_in_order(tmp_path):
    touch(
        tmp_path, "1.jpg", "rose/2.jpg", "rose/notes.txt", "@eaDir/3.jpg", ".hidden.jpg", ".x/4.jpg"
    )
    assert list(find_photos(tmp_path)) == ["1.jpg", "rose/2.jpg"]
    assert list(find_photos(tmp_path / "none")) == []


@pytest.mark.parametrize(
    "junk",
    [
        *(
            "$RECYCLE.BIN",
            "lost+found",
            "System Volume Information",
            "@eaDir",
            "__MACOSX",
            "RECYCLER",
        ),
        *(
            "thumbnails",
            "Thumbs",
            "#recycle",
            "LOST.DIR",
            "found.000",
            ".Trash-1000",
            ".thumbnails",
        ),
    ],
)
def test_what_systems_leave_is_no_class_at_any_depth(tmp_path, junk):
    names = [f"{name}/{junk}/{k}.jpg" for name in ("rose", "daisy") for k in range(2)]
    touch(tmp_path, f"{junk}/1.jpg", f"{junk}/2.jpg", *names, "rose/1.jpg", "daisy/1.jpg")
    listing = list_photos(tmp_path)
    assert listing.class_names == ("daisy", "rose")
    assert [photo.path for photo in listing.photos] == ["daisy/1.jpg", "rose/1.jpg"]
    said = [note for note in listing.notes if "folders that systems leave" in note]
    assert len(said) == (junk[0] != ".")


def test_folders_without_a_photo_are_named_the_outermost_ones(tmp_path):
    touch(tmp_path, "rose/1.jpg", "daisy/deep/1.jpg", "notes/d/1.txt", ".hidden/1.txt", "@eaDir/x")
    for name in ("tulip", "rose/empty", "iris/a/b", "iris/c"):
        (tmp_path / name).mkdir(parents=True)
    listing = list_photos(tmp_path)
    assert listing.class_names == ("daisy", "rose")
    assert "folders without a photo, passed over: iris, notes, rose/empty, tulip" in listing.notes
    for name in ("tulip", "rose/empty", "iris/a/b", "iris/c", "notes/d"):
        touch(tmp_path, f"{name}/1.jpg")
    assert not any("without a photo" in note for note in list_photos(tmp_path).notes)


def test_links_to_nothing_to_themselves_and_pipes_are_kept_with_their_reason(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "a/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a/pipe.jpg")
    walk = walk_photos(tmp_path)
    assert walk.paths == ["a/1.jpg", "a/gone.jpg", "a/loop.jpg", "a/pipe.jpg"]
    assert [photo.path for photo in walk.photos] == ["a/1.jpg"]
    assert walk.left_out["a/gone.jpg"] == "cannot be opened (No such file or directory)"
    assert walk.left_out["a/loop.jpg"].startswith("cannot be opened (Too many levels")
    assert walk.left_out["a/pipe.jpg"] == "it is no file of bytes"
    assert walk.notes == ["a/up is a link to a folder above it, and is not followed"]


# Names that are not UTF-8 -------------------------------------------------------------------------


@given(HANGUL)
def test_korean_from_windows_is_read_as_it_was_written(word):
    usual = [letter for letter in word if all(byte > 0xA0 for byte in letter.encode("cp949"))]
    name = os.fsdecode(word.encode("cp949"))
    if 2 * len(usual) > len(word) and name != word and not _is_utf8(word.encode("cp949")):
        assert readable(f"a/{name} 1.jpg") == f"a/{word} 1.jpg"


def _is_utf8(raw):
    try:
        return bool(raw.decode())
    except UnicodeDecodeError:
        return False


@given(st.text(max_size=20), st.lists(BYTES, min_size=1, unique=True))
def test_every_name_is_text_and_utf8_stays_as_it_is(text, names):
    assert readable(text) == text  # hypothesis makes no half surrogate pairs
    paths = [os.fsdecode(name) for name in names]
    for path in paths:
        assert readable(path).encode()
        assert readable(readable(path)) == readable(path)
    assert len(set(name_paths(paths).values())) == len(names)


@settings(max_examples=30, deadline=None)
@given(st.lists(BYTES, min_size=2, max_size=4, unique=True))
def test_two_folders_with_different_bytes_are_never_one_class(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("bytes")
    try:
        for name in names:
            touch(folder, name + b"/1.jpg", name + b"/2.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    kept = [name for name in os.listdir(folder) if list(find_photos(folder / name))]
    assume(len(kept) > 1)
    try:
        found = list_photos(folder).class_names
    except ValueError as error:  # words that say a split, or differ in case only
        found = ()
        assert re.search("differ|are splits", str(error))  # noqa: PT017
    assert len(found) in (0, len(kept))
    "".join(found).encode()


def test_korean_classes_from_windows_are_two_and_it_is_said(tmp_path):
    roses, magnolias = "장미".encode("cp949"), "목련".encode("cp949")
    try:
        touch(tmp_path, *(name + b"/%d.jpg" % k for name in (roses, magnolias) for k in range(2)))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    listing = list_photos(tmp_path)
    assert listing.class_names == ("목련", "장미")
    assert listing.notes == (
        "names that are not UTF-8, read as CP949, Korean from Windows: 목련, 장미",
    )
    touch(tmp_path, "장미/1.jpg")
    with pytest.raises(
        ValueError, match=r"the folders b'.*' and b'.*' differ, but both read '장미'"
    ):
        list_photos(tmp_path)


def test_other_bytes_are_written_as_such_wherever_a_path_is_told(tmp_path):
    try:
        touch(
            tmp_path,
            b"caf\xe9/1.jpg",
            b"caf\xe8/1.jpg",
            b"caf\xe9/deep\xff/2.jpg",
            b"caf\xe8/x.\xe7",
        )
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe8/up\xea")).symlink_to(tmp_path)
    listing = list_photos(tmp_path)
    assert listing.class_names == (r"caf\xe8", r"caf\xe9")
    assert [photo.id for photo in listing.photos] == [
        r"caf\xe8/1.jpg",
        r"caf\xe9/1.jpg",
        r"caf\xe9/deep\xff/2.jpg",
    ]
    assert listing.notes[0] == r"caf\xe8/up\xea is a link to a folder above it, and is not followed"
    assert r"photos in caf\xe9/deep\xff/ count as caf\xe9" in listing.notes
    assert r"files that are no photos, passed over: 1 .\xe7" in listing.notes


def test_composed_and_decomposed_names_are_one_text():
    assert normalize_name("\u1103\u1166") == "데"
