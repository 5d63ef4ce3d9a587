"""The start of a notebook."""

import pytest

from flowerkit.accelerator.machine import Evidence
from flowerkit.sources import session, start_session
from flowerkit.sources.competition import WORKING

COLAB = Evidence(modules=frozenset({"tensorflow", "google.colab"}))
KAGGLE = Evidence(
    environ={"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, modules=frozenset({"tensorflow", "google.colab"})
)
LOCAL = Evidence(modules=frozenset({"tensorflow"}))


@pytest.mark.parametrize(
    ("evidence", "has_token", "parent", "source"),
    [
        (KAGGLE, False, str(WORKING), "auto"),
        (COLAB, True, "runs", "auto"),
        (COLAB, False, "runs", "drawn"),
        (LOCAL, True, "runs", "drawn"),  # nothing is downloaded that nobody asked for
    ],
)
def test_a_notebook_learns_its_device_its_folder_and_whose_flowers_it_takes(
    evidence, has_token, parent, source, monkeypatch, tmp_path, caplog
):
    (tmp_path / "runs/petals-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "collect_evidence", lambda: evidence)
    monkeypatch.setattr(session, "has_kaggle_token", lambda: has_token)
    monkeypatch.setattr(session, "connect", lambda: "the device")
    accelerator, folder, found = start_session("petals")
    assert (accelerator, str(folder.parent), found) == ("the device", parent, source)
    assert folder.name == ("petals-2" if parent == "runs" else "petals-1")
    assert ("KAGGLE_API_TOKEN" in caplog.text) == (evidence is COLAB and not has_token)
