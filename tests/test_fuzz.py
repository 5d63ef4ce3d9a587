"""Files from elsewhere, damaged at random: each is read right, or refused in a sentence that names it.

Seeds are fixed, so that a failure comes again; the whole takes well under 40 seconds.
"""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowerkit.data import find_shards, load_split
from flowerkit.data.tfrecords import scan_shard
from flowerkit.photos import UnreadablePhoto, read_photo
from flowerkit.sources import draw_flower
from flowerkit.submission import check_submission, read_ids, read_labels, write_submission
from flowerkit.text import format_csv
from flowerkit.training import load_plan
from flowerkit.training.history import COLUMNS, History
from flowerkit.training.run_folder import Environment, RunFolder, RunResult

quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@contextlib.contextmanager
def allow(*kinds, naming=""):
    """Errors of these kinds, of one short sentence that holds `naming`."""
    try:
        yield
    except kinds as error:
        if naming not in str(error) or not 0 < len(str(error)) < 600:
            raise AssertionError(f"an error that does not help: {error}") from error


def mutations(content, num, seed):
    """`content` with flipped bits, cut, doubled, with zeros or noise in it: `num` of them."""
    rng = np.random.default_rng(seed)
    for number in range(num):
        changed = bytearray(content)
        start = int(rng.integers(len(changed)))
        length = int(rng.integers(1, 40))
        kind = number % 6
        if kind == 0:
            changed[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[start:]
        elif kind == 2:
            del changed[start : start + length]
        elif kind == 3:
            changed[start:start] = changed[start : start + length]
        elif kind == 4:
            changed[start : start + length] = bytes(length)
        else:
            changed[start : start + length] = rng.bytes(length)
        yield bytes(changed)


CONTROLS = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u2029"}


def test_a_shard_that_is_damaged_anywhere_is_read_right_or_refused_by_name(drawn, tmp_path):
    shutil.copytree(drawn.folder, tmp_path, dirs_exist_ok=True)
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    (file,) = data.files["val"]
    whole, content = load_split(data, "val", cache="none"), file.read_bytes()
    pixels = dict(zip(whole.ids, whole.images[:], strict=True))
    num_read = 0
    for damaged in mutations(content, 72, seed=1):
        file.write_bytes(damaged)
        faults = scan_shard(file, 32, 4, True, decode=True)[1]
        with allow(ValueError, naming="val"):
            split = load_split(data, "val", on_corrupt="skip", cache="none")
            assert faults or len(split) == 18
            for name, image in zip(split.ids, split.images[:], strict=True):
                np.testing.assert_array_equal(image, pixels[name])
            num_read += 1
        if faults:
            with pytest.raises(ValueError, match=rf"{file.name}.*--on-corrupt"):
                load_split(data, "val", cache="none")
    assert num_read > 36


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_photo_that_is_damaged_anywhere_becomes_a_square_or_is_unreadable(tmp_path, suffix):
    from PIL import Image

    file = tmp_path / "photo.img"
    Image.fromarray(draw_flower(3, size=40, seed=0)).save(file, suffix)
    for damaged in mutations(file.read_bytes(), 40, seed=2):
        file.write_bytes(damaged)
        with allow(UnreadablePhoto):
            assert read_photo(file, 32, "crop").jpeg.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("plan.json", lambda folder: load_plan(folder / "plan.json")),
        ("plan.json", lambda folder: RunFolder(folder).fitted()),
        ("environment.json", lambda folder: RunFolder(folder).environment()),
        ("result.json", lambda folder: RunFolder(folder).result()),
        ("history.csv", lambda folder: History.load(folder / "history.csv", "val_f1")),
    ],
)
def test_a_file_of_a_run_that_is_damaged_anywhere_is_read_or_refused_by_name(run_copy, name, read):
    file = run_copy / name
    for damaged in mutations(file.read_bytes(), 120, seed=3):
        file.write_bytes(damaged)
        with allow(ValueError, naming=name):
            read(run_copy)


@quick
@given(values=JSON, data=st.data())
def test_a_value_of_another_type_in_a_file_of_a_run_is_refused_by_name(run_copy, values, data):
    for name, kind in (("environment.json", Environment), ("result.json", RunResult)):
        fields = [field.name for field in dataclasses.fields(kind)]
        file = run_copy / name
        before = file.read_text(encoding="utf-8")
        field = data.draw(st.sampled_from(fields))
        file.write_text(json.dumps(json.loads(before) | {field: values}), encoding="utf-8")
        with allow(ValueError, naming=name):
            getattr(RunFolder(run_copy), name.partition(".")[0])()
        file.write_text(before, encoding="utf-8")


@quick
@given(values=st.dictionaries(st.sampled_from(["epochs", "seed", "head", "max_lr", "ema"]), JSON))
def test_a_plan_with_any_values_is_a_plan_or_refused_by_name(tmp_path, values):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    with allow(ValueError, naming="mine.json"):
        load_plan(file)


@quick
@given(text=st.text(max_size=200) | st.text(alphabet='id,label\n\r"0123 ab', max_size=200))
def test_any_text_is_a_csv_with_problems_or_without_and_never_an_error(tmp_path, text):
    file = tmp_path / "s.csv"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    problems = check_submission(file, ["a", "b"], 4)
    for read in (read_ids, read_labels):
        with allow(ValueError, naming="s.csv"):
            read(file)
    if not problems:
        assert set(read_labels(file)) == {"a", "b"}


@quick
@given(
    ids=st.lists(st.text(max_size=6), max_size=4), labels=st.lists(st.integers(0, 3), max_size=4)
)
def test_what_is_written_as_a_submission_is_valid(tmp_path, ids, labels):
    file = tmp_path / "s.csv"
    file.unlink(missing_ok=True)
    try:
        write_submission(file, ids, labels)
    except ValueError:
        assert not file.exists()
        return
    assert check_submission(file, ids, 4) == []
    assert read_labels(file) == dict(zip(ids, labels, strict=True))


@quick
@given(rows=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=3), max_size=3))
def test_a_csv_of_any_names_has_a_line_a_row_and_no_formula(rows):
    lines = format_csv(rows).split("\n")
    assert len(lines) == len(rows) + 1
    assert not [line for line in lines if line.startswith(("=", "@", '"=', '"@'))]
    assert not {character for line in lines for character in line} & CONTROLS


@quick
@given(values=st.lists(st.floats(width=32), min_size=len(COLUMNS) - 1, max_size=len(COLUMNS) - 1))
def test_any_numbers_of_an_epoch_come_back_as_they_are(tmp_path, values):
    file = tmp_path / "history.csv"
    file.unlink(missing_ok=True)
    history = History("val_f1", (), file)
    history.append({"epoch": 1} | dict(zip(COLUMNS[1:], values, strict=True)))
    history.save()
    (row,) = History.load(file, "val_f1")
    np.testing.assert_array_equal(list(row.values()), list(history.last.values()))
