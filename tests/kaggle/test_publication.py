"""Models and weights are published by the real `kaggle` client, to a small Kaggle on loopback."""

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from urllib.error import URLError

import kagglehub
import keras
import numpy as np
import pytest
from fake_kaggle import KEY

from flowerkit import deploy
from flowerkit.files import write_dataclass
from flowerkit.kaggle import KaggleError, Publication, publish
from flowerkit.models import backbones
from flowerkit.training import RunFolder

MODEL, WEIGHTS = "flora/petals-flowerkit", "flora/small-weights"
SMALL = "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"


def to_model(name=MODEL, **options):
    return Publication("model", name, **{"licence": "apache-2.0"} | options)


def to_data_set(name=WEIGHTS, **options):
    return Publication("dataset", name, **{"licence": "apache-2.0"} | options)


@pytest.fixture(scope="module")
def small_network():
    return keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )


@pytest.fixture(scope="module")
def weights_file(small_network, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / SMALL
    small_network.save(file)
    return file


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def copied_export(monkeypatch):
    """Exports are copies: what is in them is tested apart."""

    def export_model(folder, out, format):
        shutil.copy(folder / "model.keras", out)

    monkeypatch.setattr(deploy, "export_model", export_model)


# Models -------------------------------------------------------------------------------------------


def test_a_run_becomes_a_private_model_that_the_lines_of_its_card_load(
    fake, client, lines, drawn, finished_run, temporary, tmp_path, monkeypatch
):
    publish(client, finished_run.folder, to_model())
    page, files = fake.pages[MODEL], fake.files()
    assert (page["title"], page["isPrivate"]) == ("Petals flowerkit", True)
    assert fake.created[0]["licenseName"] == "Apache 2.0"
    assert sorted(files) == ["README.md", "classes.json", "classifier.keras"]
    assert json.loads(files["classes.json"]) == list(drawn.class_names)
    assert lines[-3:] == [
        f"published {MODEL}, version 1, private: https://www.kaggle.com/models/{MODEL}",
        f'load it with: kagglehub.model_download("{MODEL}/keras/default"), see its README.md',
        f'in a kernel-metadata.json: "model_sources": ["{MODEL}/keras/default/1"]',
    ]
    assert list(temporary.glob("flowerkit-*")) == []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    asked = []
    monkeypatch.setattr(
        kagglehub, "model_download", lambda handle: asked.append(handle) or str(tmp_path)
    )
    code = files["README.md"].decode().split("```python\n")[1].split("```")[0]
    pixels = np.zeros((2, 32, 32, 3), "float32")
    space = {"pixels": pixels}
    exec(code, space)
    expected = RunFolder(finished_run.folder).model().predict(pixels, verbose=0)
    np.testing.assert_allclose(space["probabilities"], expected, atol=1e-5)
    assert asked == [f"{MODEL}/keras/default"]


def test_the_card_has_scores_with_their_interval_and_no_path_or_secret(
    fake, client, drawn, finished_run
):
    publish(client, finished_run.folder, to_model())
    card = fake.files()["README.md"].decode()
    assert fake.pages[MODEL]["description"] == card
    for text in (
        "# Petals flowerkit",
        "| licence | Apache 2.0 |",
        "(95 % interval). Accuracy 0.",
        "on other images than these 18 it would be 0.",
        "| backbone | tiny |",
        "| data | drawn flowers: train 50, val 18, test 22; 32 px |",
        "epochs 2",
        f"keras {keras.__version__}",
        "| class | F1 on val | images in val |",
    ):
        assert text in card
    assert all(f"| {name.strip()} | " in card for name in drawn.class_names)
    with zipfile.ZipFile(io.BytesIO(fake.files()["classifier.keras"])) as archive:
        inside = b"".join(archive.read(name) for name in archive.namelist())
    sent = b"".join(fake.uploads) + inside + json.dumps([fake.pages, fake.created]).encode()
    for secret in (KEY, str(finished_run.folder), str(Path.home()), tempfile.gettempdir()):
        assert secret.encode() not in sent


def test_a_second_publication_is_a_new_version_whose_page_shows_the_new_card(
    fake, client, lines, run_copy, copied_export
):
    publish(client, run_copy, to_model())
    run = RunFolder(run_copy)
    write_dataclass(
        run.result_file,
        run.result().__class__(**vars(run.result()) | {"test_f1": 0.5, "test_images": 22}),
    )
    publish(client, run_copy, to_model(f"https://www.kaggle.com/models/{MODEL}/keras/default/1"))
    assert fake.versions == {f"{MODEL}/keras/default": 2}
    assert "macro F1 0.5000 on 22 test images." in fake.pages[MODEL]["description"]
    assert fake.pages[MODEL]["isPrivate"] is True
    assert f"published {MODEL}, version 2, seen by those who saw it before: " in lines[-3]
    assert fake.calls.count("CreateModel") == 1
    fake.pages[MODEL]["description"] = "written by hand"
    publish(client, run_copy, to_model())
    assert fake.pages[MODEL]["description"] == "written by hand"


def test_a_run_without_validation_says_that_its_score_was_not_measured(
    fake, client, run_copy, copied_export
):
    run = RunFolder(run_copy)
    values = vars(run.result()) | dict.fromkeys(("val_f1", "val_accuracy", "val_loss"))
    write_dataclass(run.result_file, run.result().__class__(**values))
    publish(client, run_copy, to_model(public=True))
    assert "was not measured" in fake.pages[MODEL]["description"]
    assert fake.pages[MODEL]["isPrivate"] is False


@pytest.mark.parametrize(
    "call", ["CreateModel", "CreateModelInstance", "CreateModelInstanceVersion"]
)
def test_what_creates_a_model_is_sent_once_even_if_its_response_is_lost(
    fake, client, finished_run, copied_export, call
):
    if call.endswith("Version"):
        publish(client, finished_run.folder, to_model())
    fake.faults[call] = ["lose"]
    publish(client, finished_run.folder, to_model())
    assert fake.calls.count(call) == 1
    assert fake.versions == {f"{MODEL}/keras/default": len(fake.created)}


# Weights ------------------------------------------------------------------------------------------


def test_weights_that_are_published_are_found_by_a_pushed_notebook_without_internet(
    fake, client, lines, weights_file, small_network, tmp_path, monkeypatch
):
    publish(client, weights_file, to_data_set())
    (body,) = fake.created
    assert (body["licenseName"], body["isPrivate"]) == ("apache-2.0", True)
    assert "MobileNetV3Small, ImageNet (Apache-2.0)" in body["description"]
    assert lines[-2:] == [
        f"published {WEIGHTS}, version 1, private: https://www.kaggle.com/datasets/{WEIGHTS}",
        f"next: flowerkit push --weights-dataset {WEIGHTS}",
    ]
    mount = tmp_path / "input" / "small-weights"
    mount.mkdir(parents=True)
    for name, content in fake.files().items():
        (mount / name).write_bytes(content)
    monkeypatch.setattr(backbones, "KAGGLE", tmp_path)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", without_internet)
    body, _ = backbones.build_backbone("MobileNetV3Small", "imagenet", 32, 0.0)
    for loaded, saved in zip(body.get_weights(), small_network.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, saved)


def without_internet(url, *_):
    raise URLError("no internet")


def test_the_weights_of_a_run_are_those_that_keras_keeps_for_its_backbone(
    fake, client, run_copy, weights_file, monkeypatch, tmp_path
):
    set_plan(run_copy, backbone="MobileNetV3Small", weights="imagenet")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no weights of MobileNetV3Small in "):
        publish(client, run_copy, to_data_set())
    (tmp_path / "models").mkdir()
    shutil.copy(weights_file, tmp_path / "models")
    shutil.copy(weights_file, tmp_path / "models/mobilenet_1_0_224_tf_no_top.h5")
    publish(client, run_copy, to_data_set())
    assert list(fake.files()) == [SMALL]


def test_a_run_with_a_backbone_in_a_file_publishes_that_file(
    fake, client, lines, run_copy, small_network, tmp_path
):
    small_network.save(tmp_path / "mine.keras")
    set_plan(run_copy, backbone=str(tmp_path / "mine.keras"))
    publish(client, run_copy, to_data_set())
    assert fake.files() == {"mine.keras": (tmp_path / "mine.keras").read_bytes()}
    assert "backbone=" in lines[-1]
    assert "- `mine.keras`, " in fake.created[0]["description"]
    assert str(tmp_path) not in fake.created[0]["description"]


def set_plan(folder, **fields):
    file = RunFolder(folder).plan_file
    values = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: values[name] for name in values if name != "checksum"}))


def test_a_data_set_that_is_there_gets_a_version_also_if_the_response_is_lost(
    fake, client, lines, weights_file
):
    for call in ("CreateDataset", "CreateDatasetVersion"):
        fake.faults[call] = ["lose"]
        publish(client, weights_file, to_data_set(f"kaggle.com/datasets/{WEIGHTS}"))
        assert fake.calls.count(call) == 1
    assert fake.versions == {WEIGHTS: 2}
    assert f"published {WEIGHTS}, version 2, seen by" in lines[-2]


def test_a_broken_upload_is_sent_again_and_one_that_fails_creates_nothing(
    fake, client, weights_file, temporary
):
    fake.faults["PUT"] = ["drop", 503]
    publish(client, weights_file, to_data_set())
    assert fake.files() == {SMALL: weights_file.read_bytes()}
    fake.faults["PUT"] = [400]
    with pytest.raises(KaggleError, match=f"publishing {WEIGHTS}: 400: "):
        publish(client, weights_file, to_data_set())
    assert fake.versions == {WEIGHTS: 1}
    assert list(temporary.glob("flowerkit-*")) == []


def test_a_data_set_that_kaggle_cannot_process_is_an_error(fake, client, weights_file):
    fake.data_set_statuses = ["FAILED"]
    with pytest.raises(KaggleError, match=f"{WEIGHTS} is on Kaggle but not ready .failed."):
        publish(client, weights_file, to_data_set())


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("licence", [None, "", "-", "Apache 3"])
@pytest.mark.parametrize(("kind", "last"), [("model", "cc-by-nc-sa-4.0"), ("dataset", "other")])
def test_without_a_licence_that_kaggle_knows_all_of_them_are_named(kind, last, licence):
    with pytest.raises(ValueError, match=rf"a licence is needed.*: apache-2\.0, .*{last}\.$"):
        Publication(kind, MODEL, licence)


@pytest.mark.parametrize(
    ("kind", "licence", "name"),
    [
        ("model", "Apache 2.0", "Apache 2.0"),
        ("model", " MIT ", "MIT"),
        ("model", "apache-2.0", "Apache 2.0"),
        ("model", "CC-BY-NC-4.0", "Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)"),
        ("dataset", "Apache 2.0", "apache-2.0"),
        ("dataset", "cc by 4.0", "CC-BY-4.0"),
    ],
)
def test_a_licence_is_known_by_its_letters_and_digits(kind, licence, name):
    assert Publication(kind, MODEL, licence).licence == name


def test_mit_is_a_licence_of_models_alone():
    with pytest.raises(ValueError, match="'MIT' is none of a dataset here"):
        to_data_set(licence="MIT")


@pytest.mark.parametrize(
    "name",
    ["petals", "flora/rose", "flora/" + "a" * 51, "flora/petals_kit", "flora/a--petals", "",
     "a/b/petals-kit", None, "https://www.kaggle.com/code/flora/petals-kit", "flora/petals kit"],
)  # fmt: skip
def test_a_name_that_kaggle_does_not_take_is_refused(name):
    with pytest.raises(ValueError, match="6 to 50 letters from a to z"):
        to_data_set(name)


def test_what_cannot_be_published_is_refused_before_anything_is_sent(
    fake, client, run_copy, tmp_path
):
    (tmp_path / "odd.h5").write_text("<html>not found</html>")
    (tmp_path / "notes.txt").write_text("notes")
    for source, target, message in [
        (tmp_path, to_model(), "no run folder"),
        (tmp_path / "gone.h5", to_data_set(), "no file of weights"),
        (tmp_path / "odd.h5", to_data_set(), "odd.h5 is no whole file of weights"),
        (tmp_path / "notes.txt", to_data_set(), r"ending in .h5 or .keras"),
        (run_copy, to_data_set(), "its network was tiny, its weights random"),
    ]:
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            publish(client, source, target)
    RunFolder(run_copy).result_file.unlink()
    with pytest.raises(FileNotFoundError, match="is not finished .*--resume"):
        publish(client, run_copy, to_model())
    assert fake.calls == []


def test_another_owner_is_refused_in_words_before_the_upload(
    fake, client, finished_run, weights_file
):
    with pytest.raises(KaggleError, match="403: .*signed in as flora: publish as flora/petals-kit"):
        publish(client, finished_run.folder, to_model("someone/petals-kit"))
    with pytest.raises(KaggleError, match="403: .*signed in as flora: publish as flora/petals-kit"):
        publish(client, weights_file, to_data_set("someone/petals-kit"))
    assert fake.uploads == []


def test_only_a_response_that_it_is_not_there_makes_something_new(fake, client, weights_file):
    fake.faults["GetDataset"] = [500] * 9
    with pytest.raises(KaggleError, match=f"looking for {WEIGHTS}: 500"):
        publish(client, weights_file, to_data_set())
    assert fake.uploads == []
    fake.faults["GetDataset"] = [403]  # as for notebooks: there may be none of this name
    publish(client, weights_file, to_data_set())
    assert fake.versions == {WEIGHTS: 1}


def test_what_kaggle_does_not_take_is_an_error_without_credentials(fake, client, weights_file):
    fake.create_response = {"status": "error", "error": f"Bad title ({KEY})."}
    with pytest.raises(
        KaggleError, match=r"did not take .*Bad title \(\[credentials\]\)\. Correct"
    ):
        publish(client, weights_file, to_data_set())
