import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from flowerkit.callbacks import write_history
from flowerkit.plan import SMOKE
from flowerkit.prediction import Predictions
from flowerkit.report import write_pictures

NAMES = ["daisy", "rose", "lily"]


@pytest.fixture
def run_folder(tmp_path):
    """What a run of two epochs leaves for the report."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(SMOKE.to_dict()))
    (folder / "environment.json").write_text(json.dumps({"data": {"class_names": NAMES}}))
    row = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.5, "val_f1": 0.4,
           "planned_lr": 1e-3, "learning_rate": 1e-3, "seconds": 2.0,
           "images_per_second": 50.0}  # fmt: skip
    write_history(folder / "history.csv", [{"epoch": 1, **row}, {"epoch": 2, **row, "loss": 0.8}])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]], "float32")
    Predictions(np.array(["a", "b", "c"]), probabilities, np.array([0, 1, 2], "int32")).save(
        folder / "val_predictions.npz"
    )
    return folder


def _looks_drawn(path):
    """A picture of some size on which something stands."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_curves_and_confusion_are_written_beside_the_run(run_folder):
    files = write_pictures(run_folder)
    assert files == [run_folder / name for name in ("curves.png", "rates.png", "confusion.png")]
    assert all(map(_looks_drawn, files))
    assert not (run_folder / "mistakes.png").exists()


def test_mistakes_are_drawn_when_the_images_are_given(run_folder):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    files = write_pictures(run_folder, val_images=images)
    assert [file.name for file in files] == [
        "curves.png",
        "rates.png",
        "confusion.png",
        "mistakes.png",
    ]
    assert all(map(_looks_drawn, files))


def test_older_pictures_are_replaced(run_folder):
    (run_folder / "curves.png").write_text("an older one")
    write_pictures(run_folder)
    assert _looks_drawn(run_folder / "curves.png")


def test_the_callers_figures_and_backend_are_left_alone(run_folder):
    before, backend = plt.get_fignums(), plt.get_backend()
    write_pictures(run_folder)
    assert plt.get_fignums() == before
    assert plt.get_backend() == backend


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder \(no plan.json\)"):
        write_pictures(tmp_path)


def test_a_run_without_predictions_is_an_error(run_folder):
    (run_folder / "val_predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no predictions .*val_predictions.npz"):
        write_pictures(run_folder)
