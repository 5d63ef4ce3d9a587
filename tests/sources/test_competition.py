"""Where the competition's files are: mounts and a stand-in for kagglehub, never the network."""

import hashlib
import logging
import sys
import types

import pytest

from flowerkit.sources.competition import (
    CLASS_NAMES,
    MOUNTS,
    download_competition,
    find_competition,
    has_kaggle_token,
)


def mount(folder, image_size=224, num_train=12):
    for split, count in (("train", num_train), ("val", 4), ("test", 8)):
        split_folder = folder / f"tfrecords-jpeg-{image_size}x{image_size}" / split
        split_folder.mkdir(parents=True)
        (split_folder / f"00-{image_size}x{image_size}-{count}.tfrec").touch()
    return folder


@pytest.fixture
def kagglehub(tmp_path, monkeypatch):
    """Install a kagglehub whose competition_download has the given body."""

    def install(body):
        (tmp_path / "kagglehub.py").write_text(f"def competition_download(slug):\n    {body}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "kagglehub", raising=False)

    yield install
    sys.modules.pop("kagglehub", None)


def test_the_names_are_the_competitions_104():
    assert len(CLASS_NAMES) == 104
    assert (CLASS_NAMES[0], CLASS_NAMES[103]) == ("pink primrose", "wild rose")
    assert (CLASS_NAMES[87], CLASS_NAMES[90]) == ("cyclamen ", "hippeastrum ")
    digest = hashlib.sha256("\n".join(CLASS_NAMES).encode()).hexdigest()
    assert digest == "f52f8c8c1d07ad1ab8f3fa4b3357fab15bd1df07f169ff451c8fbf4d64b9cc51"


def test_the_mounts_are_those_of_2026_before_the_older_ones():
    assert [str(path) for path in MOUNTS] == [
        "/kaggle/input/competitions/tpu-getting-started",
        "/kaggle/input/tpu-getting-started",
        "/kaggle/input/competitions/flower-classification-with-tpus",
        "/kaggle/input/flower-classification-with-tpus",
    ]


def test_the_first_mount_with_shards_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    mount(tmp_path / "first", num_train=12)
    mount(tmp_path / "second", num_train=99)
    mounts = [tmp_path / name for name in ("absent", "empty", "first", "second")]
    data = find_competition(mounts=mounts)
    assert data.folder == tmp_path / "first"
    assert data.counts == {"train": 12, "val": 4, "test": 8}
    assert (data.class_names, data.image_size, data.origin) == (CLASS_NAMES, 224, "competition")


def test_no_mount_says_where_it_looked_and_how_to_attach(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        find_competition(mounts=[tmp_path / "here", tmp_path / "there"])
    assert str(caught.value) == (
        f"no competition data (looked in {tmp_path}/here, {tmp_path}/there). On Kaggle: Add Input, "
        "search for 'tpu-getting-started' under Competitions, add it, and accept the rules on the "
        "competition's page."
    )


def test_a_mount_without_the_size_says_which_it_has(tmp_path):
    mount(tmp_path, image_size=512)
    with pytest.raises(FileNotFoundError, match=r"no tfrecords-jpeg-224x224/ .*\(found: 512\)"):
        find_competition(mounts=[tmp_path])
    assert find_competition(image_size=512, mounts=[tmp_path]).image_size == 512


def test_a_download_is_found_where_kagglehub_put_it(tmp_path, kagglehub):
    mount(tmp_path / "tpu-getting-started")
    kagglehub(f"return {str(tmp_path)!r} + '/' + slug")
    data = download_competition()
    assert (data.folder, data.origin) == (tmp_path / "tpu-getting-started", "competition")


def test_a_failed_download_names_the_cause_and_the_remedies(kagglehub):
    kagglehub("raise PermissionError('403 Client Error')")
    with pytest.raises(RuntimeError) as caught:
        download_competition()
    assert "tpu-getting-started (PermissionError: 403 Client Error)" in str(caught.value)
    for remedy in ("API token", "rules accepted", "internet switched on", "pass the folder"):
        assert remedy in str(caught.value)


def test_a_missing_kagglehub_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(RuntimeError, match="Run `pip install kagglehub`, or pass the folder"):
        download_competition()


def test_a_token_is_seen_in_each_of_its_places(tmp_path):
    nowhere = {"KAGGLE_CONFIG_DIR": str(tmp_path)}
    assert not has_kaggle_token(nowhere)
    assert not has_kaggle_token(nowhere | {"KAGGLE_USERNAME": "someone"})
    assert has_kaggle_token(nowhere | {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "k"})
    assert has_kaggle_token(nowhere | {"KAGGLE_API_TOKEN": "t"})
    for name in ("access_token", "kaggle.json"):
        (tmp_path / name).touch()
        assert has_kaggle_token(nowhere)
        (tmp_path / name).unlink()


class NotebookAccessError(Exception):
    pass


class SecretNotFoundError(Exception):
    pass


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A Colab notebook with these secrets; an error in the place of a value is raised."""

    def enter(**secrets):
        def get(name):
            found = secrets.get(name, SecretNotFoundError(f"Secret {name} does not exist."))
            if isinstance(found, Exception):
                raise found
            return found

        userdata = types.SimpleNamespace(
            get=get,
            NotebookAccessError=NotebookAccessError,
            SecretNotFoundError=SecretNotFoundError,
        )
        module = types.ModuleType("google.colab")
        module.userdata = userdata
        monkeypatch.setitem(sys.modules, "google.colab", module)
        return {"KAGGLE_CONFIG_DIR": str(tmp_path)}

    return enter


@pytest.mark.parametrize(
    "secrets",
    [
        {"KAGGLE_API_TOKEN": "tok-en"},
        {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "k-ey"},
        {"KAGGLE_API_TOKEN": "tok-en", "KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "k-ey"},
    ],
)
def test_a_token_in_colabs_secrets_goes_into_the_environment_and_is_not_shown(
    colab, secrets, capsys, caplog
):
    environ = colab(**{name: f" {value}\n" for name, value in secrets.items()})
    before = dict(environ)
    with caplog.at_level(logging.DEBUG):
        assert has_kaggle_token(environ)
    assert environ == before | secrets
    assert (capsys.readouterr(), caplog.messages) == (("", ""), [])


@pytest.mark.parametrize(
    "secrets",
    [
        {},
        {"KAGGLE_API_TOKEN": ""},
        {"KAGGLE_API_TOKEN": None},
        {"KAGGLE_USERNAME": "someone"},
        {"KAGGLE_API_TOKEN": TimeoutError("no browser")},
    ],
)
def test_colab_without_a_whole_token_changes_nothing(colab, secrets, caplog):
    environ = colab(**secrets)
    before = dict(environ)
    assert not has_kaggle_token(environ)
    assert environ == before
    assert caplog.messages == []


def test_a_secret_that_colab_keeps_from_the_notebook_is_told_with_the_remedy(colab, caplog):
    environ = colab(KAGGLE_API_TOKEN=NotebookAccessError("no access"))
    assert not has_kaggle_token(environ)
    assert caplog.messages == [
        "Colab's secret KAGGLE_API_TOKEN is closed to this notebook, so it is not used. Switch on its "
        "notebook access, under the key in the side bar."
    ]


def test_colab_is_not_asked_where_a_token_is_known(colab):
    environ = colab(KAGGLE_API_TOKEN="other")
    assert has_kaggle_token(environ | {"KAGGLE_API_TOKEN": "mine"})
    assert "KAGGLE_API_TOKEN" not in environ
