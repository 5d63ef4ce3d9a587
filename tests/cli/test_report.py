"""The page of a run, written once more."""

import argparse
import dataclasses
import shutil

import pytest

from flowerkit.cli.report import add_report_options, run_report
from flowerkit.cli.submitting import predict_and_submit
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.trainer import train


@pytest.fixture(scope="module")
def kept(drawn, accelerator, tmp_path_factory):
    """A run and its data, in folders of their own."""
    folder = tmp_path_factory.mktemp("kept")
    data = dataclasses.replace(drawn, folder=shutil.copytree(drawn.folder, folder / "data"))
    data = dataclasses.replace(
        data,
        files={
            name: tuple(data.folder / file.relative_to(drawn.folder) for file in files)
            for name, files in data.files.items()
        },
    )
    plan = TrainingPlan(backbone="tiny", weights=None, epochs=1, per_replica_batch=16)
    run = train(plan, data, out=folder / "run", accelerator=accelerator)
    predict_and_submit(run.model, data, folder / "run/submission.csv", print, global_batch=16)
    return folder


def report(*words):
    parser = argparse.ArgumentParser()
    add_report_options(parser)
    told = []
    status = run_report(parser.parse_args(list(map(str, words))), told.append, None)
    return status, told


def test_the_pictures_come_from_the_data_that_the_run_was_trained_on(kept):
    page = kept / "run/report.html"
    assert report(kept / "run") == (0, [f"wrote {page}"])
    text = page.read_text(encoding="utf-8")
    assert "every id of the test set once" in text
    assert "data:image/jpeg" in text  # its worst mistakes, one by one


def test_without_its_data_the_page_is_written_and_what_is_missing_is_told(kept):
    (kept / "data").rename(kept / "moved")
    try:
        status, (lost, wrote) = report(kept / "run")
        assert status == 0
        assert lost.startswith(f"without the pictures of its data: no folder {kept}/data")
        assert wrote == f"wrote {kept / 'run/report.html'}"
        assert report(kept / "run", "--data", kept / "moved") == (0, [wrote])
    finally:
        (kept / "moved").rename(kept / "data")


def test_data_that_is_not_the_runs_is_refused(kept, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        report(kept / "run", "--data", tmp_path / "nowhere")
    other = shutil.copytree(kept / "data", tmp_path / "other")
    shards = next(other.glob("tfrecords-jpeg-*"))
    shutil.rmtree(shards / "val")
    shutil.copytree(shards / "train", shards / "val")
    with pytest.raises(ValueError, match="the val images of .*other are not those that"):
        report(kept / "run", "--data", other)
