"""The real thing made small: drawn flowers, a tiny network, whatever device the environment asks for.

CI runs the tests that train once for each backend, with one and with eight virtual devices, through
KERAS_BACKEND and FLOWERKIT_VIRTUAL_CPUS.
"""

import dataclasses
import functools
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

import flowerkit
from flowerkit.sources import draw_competition
from flowerkit.training.plan import RAMP

# The same examples everywhere, however slow the machine is.
settings.register_profile(
    "flowerkit",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("flowerkit")


GLOBAL_BATCH = 16
# What runs keep for the next one must not come from, or go to, the cache of whoever runs the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="flowerkit-tests-")
os.environ.setdefault("FLOWERKIT_CACHE", _CACHE.name)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """4 classes, 32 px; 22 test images leave 6 over a batch of 8 or 16, as the competition's do."""
    folder = tmp_path_factory.mktemp("drawn") / "flowers"
    return draw_competition(
        folder, num_classes=4, image_size=32, num_train=50, num_val=18, num_test=22, seed=1
    )


@pytest.fixture(scope="session")
def accelerator():
    return flowerkit.connect()


@pytest.fixture(scope="session")
def quick_plan(accelerator):
    """Two epochs of a tiny network at a global batch of 16, on one or eight replicas."""
    return dataclasses.replace(
        RAMP,
        backbone="tiny",
        weights=None,
        epochs=2,
        per_replica_batch=GLOBAL_BATCH // accelerator.replicas,
        lr_reference_batch=None,
        rampup_epochs=1,
        start_lr=1e-3,
        max_lr=2e-3,
        min_crop_area=1.0,
        random_erasing=0.0,
        freeze_flip=False,
        small_epochs=0,
    )


@pytest.fixture(scope="session")
def finished_run(drawn, quick_plan, accelerator, tmp_path_factory):
    """A `TrainingResult`: `quick_plan` on `drawn`, trained once. Its `folder` is for reading only."""
    from flowerkit.training.trainer import train

    folder = tmp_path_factory.mktemp("finished") / "petals"
    return train(drawn, quick_plan, out=folder, accelerator=accelerator)


@pytest.fixture
def run_copy(finished_run, tmp_path):
    """A copy of the folder of `finished_run` to write into."""
    return shutil.copytree(finished_run.folder, tmp_path / "petals")


@pytest.fixture(scope="session")
def make_run(finished_run):
    """Writes finished runs with chosen predictions, see `run_pages.write_run`."""
    from run_pages import write_run

    from flowerkit.training import SavedRun

    return functools.partial(write_run, SavedRun.load(finished_run.folder))


@pytest.fixture
def no_screen():
    """Pictures are drawn without a screen, and none stays open."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    """Axes of a figure that pyplot does not know."""
    from matplotlib.figure import Figure

    return Figure(figsize=(5, 4)).subplots()
