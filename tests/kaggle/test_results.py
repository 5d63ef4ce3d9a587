"""Fetch, check and submit, by the real `kaggle` client, against a small Kaggle on loopback."""

import pytest
from fake_kaggle import KERNEL, NAME, VALID_CSV

from flowerkit.kaggle.client import KaggleError, KernelRun
from flowerkit.kaggle.results import (
    check_csv,
    pull_outputs,
    resolve_version,
    submit,
    wait_for_score,
)

RUN = KernelRun.parse(KERNEL)


@pytest.fixture(autouse=True)
def ended(fake):
    """The run has ended before anything is fetched."""
    fake.statuses = ["COMPLETE"]


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_bytes(VALID_CSV)
    return path


# Fetch --------------------------------------------------------------------------------------------


def test_every_output_of_a_run_and_its_log_are_fetched(fake, client, lines, tmp_path):
    out = tmp_path / "out"
    run = KernelRun.parse(f"{KERNEL}/2")
    assert pull_outputs(client, run, out) == out / "submission.csv"
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {"history.csv", "run/plan.json", "submission.csv", f"{NAME}.log"}
    assert (out / "submission.csv").read_bytes() == VALID_CSV
    assert (out / f"{NAME}.log").read_text().endswith("\nepoch 1/2\nepoch 2/2\n")
    assert f"  {out}/history.csv (6 bytes)" in lines
    assert set(fake.versions_asked) == {"v2"}


@pytest.mark.parametrize("fault", [404, 500])
def test_an_error_page_is_never_kept_as_a_file(fake, client, tmp_path, fault):
    fake.faults["file"] = [None, fault]
    with pytest.raises(KaggleError, match=f"fetching the outputs of {KERNEL}: {fault}"):
        pull_outputs(client, RUN, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_breaks_off_is_fetched_again(fake, client, tmp_path):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "69")
        handler.end_headers()
        handler.wfile.write(VALID_CSV[:20])
        handler.close_connection = True

    fake.faults["file"] = [None, None, cut]
    assert pull_outputs(client, RUN, tmp_path).read_bytes() == VALID_CSV


def test_an_output_cannot_climb_out_of_its_folder(fake, client, tmp_path):
    fake.outputs["../../evil.py"] = b"evil"
    with pytest.raises(KaggleError, match=r"'../../evil.py'"):
        pull_outputs(client, RUN, tmp_path / "out")
    assert list(tmp_path.rglob("evil.py")) == []


def test_a_run_without_a_csv_is_an_error_that_lists_its_outputs(fake, client, tmp_path):
    del fake.outputs["submission.csv"]
    with pytest.raises(KaggleError, match=r"history.csv, run/plan.json\).*`flowerkit watch"):
        pull_outputs(client, RUN, tmp_path)


def test_a_run_that_goes_on_has_nothing_to_fetch(fake, client, tmp_path):
    fake.statuses = ["RUNNING"]
    with pytest.raises(KaggleError, match="is still running.*`flowerkit watch flora/.*/VERSION"):
        pull_outputs(client, RUN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_outputs_of_a_failed_run_are_fetched_with_a_warning(fake, client, lines, tmp_path):
    fake.statuses, fake.failure = ["ERROR"], "Notebook Threw Exception"
    assert pull_outputs(client, RUN, tmp_path).is_file()
    assert lines[0].startswith(f"{KERNEL} failed: Notebook Threw Exception; ")


# Check --------------------------------------------------------------------------------------------


def test_without_data_a_csv_is_compared_with_what_is_known_of_the_competition(tmp_path):
    rows = "".join(f"{number:09x},{number % 104}\n" for number in range(7_382))
    csv = tmp_path / "submission.csv"
    csv.write_text(f"id,label\n{rows}")
    assert check_csv(csv) == []
    csv.write_text(f"id,label\n{rows}{rows[:12]}a,104\n")
    repeated, outside, count = check_csv(csv)
    assert "line 7384: id '000000000'" in repeated
    assert "104" in outside
    assert count == "7,384 rows; the competition's test set has 7,382"
    csv.write_text("id,label\n")
    assert check_csv(csv)[-1].startswith("0 rows")


# Submit -------------------------------------------------------------------------------------------


def test_a_csv_is_submitted_as_a_file_and_scored(fake, client, csv):
    number = submit(client, csv, message="first try")
    assert wait_for_score(client, number) == "0.97"
    assert fake.uploads == [VALID_CSV]
    assert [entry["description"] for entry in fake.submissions] == ["first try"]


def test_a_version_of_a_notebook_is_submitted_without_an_upload(fake, client):
    fake.version = 7
    run = resolve_version(client, RUN)
    assert run.version == 7
    submit(client, run)
    assert "CreateCodeSubmission" in fake.calls
    assert fake.uploads == []


def test_a_notebook_that_kaggle_does_not_have_is_named(fake, client):
    with pytest.raises(KaggleError, match=f"knows no version of {KERNEL}.*push it first"):
        resolve_version(client, RUN)


def test_a_submission_whose_response_is_lost_is_not_repeated(fake, client, csv):
    fake.faults["CreateSubmission"] = ["lose"]
    assert submit(client, csv) == 41
    fake.returns_number = False
    assert submit(client, csv, message="again") == 42
    fake.faults["CreateSubmission"] = ["drop"]
    with pytest.raises(KaggleError, match="try again"):
        submit(client, csv)
    assert len(fake.submissions) == 2


def test_what_kaggle_does_not_take_or_cannot_score_is_an_error(fake, client, csv):
    fake.faults["PUT"] = [400]
    with pytest.raises(KaggleError, match="submitting .*: 400: Client Error: Bad Request"):
        submit(client, csv)
    fake.submit_response = {"message": "You have submitted too often today"}
    with pytest.raises(KaggleError, match=r"'You have submitted too often today'.*/rules"):
        submit(client, csv)
    assert fake.submissions == []
    fake.submit_response, fake.submission_statuses = None, ["ERROR"]
    with pytest.raises(KaggleError, match="could not score submission 41: wrong ids"):
        wait_for_score(client, submit(client, csv))


def test_a_score_that_does_not_come_in_time_is_none(fake, client, csv):
    fake.submission_statuses = ["PENDING"]
    assert wait_for_score(client, submit(client, csv)) is None
