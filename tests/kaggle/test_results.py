"""Pull and submit, by the real `kaggle` client, against a small Kaggle on loopback."""

import pytest
from fake_kaggle import KERNEL, NAME, SOUND


@pytest.fixture(autouse=True)
def ended(fake):
    """The run has ended before anything is fetched."""
    fake.statuses = ["COMPLETE"]


# Pull ---------------------------------------------------------------------------------------------


def test_an_error_page_is_never_kept_as_a_file(command, fake, five_images, tmp_path):
    out = tmp_path / "out"
    fake.faults["file"] = [500, 500, None, "drop"]
    status, said, _ = command("pull", KERNEL, out, "--data", five_images)
    assert status == 0
    assert "fetching history.csv: 500: " in said
    assert (out / "history.csv").read_bytes() == b"epoch\n"

    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "69")
        handler.end_headers()
        handler.wfile.write(SOUND[:20])
        handler.close_connection = True

    fake.faults["file"] = [None, None, cut]
    status, said, _ = command("pull", KERNEL, out, "--data", five_images)
    assert status == 0
    assert "fetching submission.csv: the connection failed or was dropped; trying again" in said
    assert (out / "submission.csv").read_bytes() == SOUND
    fake.faults["file"] = [404]
    status, _, err = command("pull", KERNEL, tmp_path / "new", "--data", five_images)
    assert status == 1
    assert "fetching history.csv: Kaggle does not know it (404" in err
    assert not (tmp_path / "new" / "history.csv").exists()


def test_a_run_without_a_csv(command, fake, tmp_path):
    del fake.outputs["submission.csv"]
    status, _, err = command("pull", KERNEL, tmp_path / "out")
    assert status == 1
    assert err == (
        f"flowerkit: {KERNEL} made no submission.csv (it made history.csv, plan.json). Its log says "
        f"why; it stands in {tmp_path}/out/{NAME}.log.\n"
    )
    fake.version = 1
    status, _, err = command("submit", KERNEL)
    assert status == 1
    assert f"{KERNEL}/1 made no submission.csv (" in err
    assert f"`flowerkit watch {KERNEL}/1` shows it.\n" in err


def test_a_run_that_goes_on_has_nothing_to_pull_or_submit(command, fake, tmp_path):
    fake.statuses, fake.version = ["RUNNING"], 2
    for words in (["pull", KERNEL, tmp_path / "out"], ["submit", KERNEL]):
        status, said, err = command(*words)
        assert (status, said) == (1, "")
        assert "is still running. Follow it with `flowerkit watch flora/" in err
        assert "or name an earlier version, OWNER/NAME/VERSION." in err
    assert "ListKernelSessionOutput" not in fake.calls
    assert not (tmp_path / "out").exists()


def test_what_a_failed_run_left_is_fetched_and_called_that(command, fake, five_images, tmp_path):
    fake.statuses, fake.failure = ["ERROR"], "Notebook Threw Exception"
    status, said, _ = command("pull", KERNEL, tmp_path / "out", "--data", five_images)
    assert status == 0
    assert said.startswith(
        f"{KERNEL} failed: Notebook Threw Exception; what it left may be unfinished\n"
    )


def test_a_folder_that_cannot_be_written_is_named(command, fake, tmp_path):
    (tmp_path / "out").touch()
    status, _, err = command("pull", KERNEL, tmp_path / "out")
    assert status == 1
    assert err.startswith(f"flowerkit: {tmp_path}/out cannot hold the outputs: {tmp_path}/out is")


def test_an_output_cannot_climb_out_of_its_folder(command, fake, tmp_path):
    fake.outputs["../evil.py"] = b"evil"
    status, _, err = command("pull", KERNEL, tmp_path / "out")
    assert status == 1
    assert "the output '../evil.py' would be written outside" in err
    assert not (tmp_path / "evil.py").exists()


def test_without_data_the_form_of_the_csv_is_checked(command, fake, tmp_path):
    rows = "".join(f"{number:09x},{number % 104}\n" for number in range(7_382))
    fake.outputs = {"submission.csv": f"id,label\n{rows}".encode()}
    status, said, _ = command("pull", KERNEL, tmp_path / "out")
    assert status == 0
    assert "submission.csv: sound (its form; ids need --data)" in said
    fake.outputs = {"submission.csv": f"id,label\n{rows}{rows[:12]}a,104\n".encode()}
    status, said, _ = command("pull", KERNEL, tmp_path / "out")
    assert status == 1
    assert "line 7384: id '000000000' appears twice (first on line 2)" in said
    assert "is outside 0..103" in said
    assert said.endswith("\n  7,384 rows; the competition's test set has 7,382\n")
    assert "wanted" not in said
    fake.outputs = {"submission.csv": b"id,label\n"}
    status, said, _ = command("pull", KERNEL, tmp_path / "out")
    assert said.endswith("1 problem\n  no rows; the competition's test set has 7,382\n")


# Submit -------------------------------------------------------------------------------------------


def test_a_sound_csv_is_submitted_as_a_file(command, fake, five_images, tmp_path):
    csv = tmp_path / "submission.csv"
    csv.write_bytes(SOUND)
    status, said, _ = command("submit", csv, "--data", five_images)
    assert status == 0
    assert said.splitlines() == [
        f"{csv}: sound (every id of the data once)",
        "submission 41 to tpu-getting-started is in; waiting for its score",
        "submission 41: public score 0.97",
    ]
    assert fake.uploads == [SOUND]
    assert fake.find_seen("ListSubmissions") == ["StartSubmissionUpload", "PUT", "CreateSubmission"]


def test_an_unsound_csv_is_submitted_only_where_that_is_asked_by_name(
    command, fake, five_images, tmp_path
):
    csv = tmp_path / "submission.csv"
    csv.write_bytes(SOUND + b"foreign,1\n")
    status, said, _ = command("submit", csv, "--data", five_images)
    assert status == 1
    assert "line 7: id 'foreign' is not in the test set" in said
    assert said.endswith("not submitted. Mend it, or pass --force\n")
    assert fake.calls == []
    assert command("submit", csv)[0] == 1  # without data: six rows are not the competition's
    status, said, _ = command("submit", csv, "--data", five_images, "--force")
    assert status == 0
    assert "submitting it all the same" in said
    assert len(fake.submissions) == 1


def test_a_version_of_the_notebook_is_checked_and_submitted(command, fake, five_images):
    fake.version = 7
    status, said, _ = command("submit", KERNEL, "--version", "7", "--data", five_images)
    assert status == 0
    assert said.endswith("submission 41: public score 0.97\n")
    assert "CreateCodeSubmission" in fake.calls
    assert fake.calls.count("file") == 1  # the csv alone, not a model of a hundred megabytes
    assert fake.uploads == []
    assert set(fake.versions_asked) == {"v7"}
    fake.outputs["submission.csv"] = SOUND.replace(b",3", b",4")
    status, said, _ = command("submit", KERNEL, "--data", five_images)
    assert status == 1
    assert "label 4 is outside 0..3" in said
    assert set(fake.versions_asked) == {"v7"}  # the newest, asked for by its number
    assert len(fake.submissions) == 1
    assert command("submit", KERNEL, "--data", five_images, "--force")[0] == 0
    assert len(fake.submissions) == 2


def test_a_version_that_is_not_there_is_not_submitted(command, fake):
    fake.version = 7
    status, _, err = command("submit", KERNEL, "--version", "8")
    assert status == 1
    assert err == f"flowerkit: {KERNEL} has no version 8; the newest is 7.\n"
    status, _, err = command("submit", "somebody/petals", "--version", "1")
    assert status == 1
    assert "Kaggle knows no version of somebody/petals. Check the name, or push it first." in err
    assert set(fake.calls) == {"GetKernel"}


def test_a_submission_whose_answer_is_lost_is_not_made_twice(command, fake, five_images, tmp_path):
    csv = tmp_path / "submission.csv"
    csv.write_bytes(SOUND)
    fake.faults["CreateSubmission"] = ["lose"]
    status, said, _ = command("submit", csv, "--data", five_images)
    assert status == 0
    assert "submission 41: public score 0.97" in said
    assert len(fake.submissions) == 1
    fake.tells_number = False
    status, said, _ = command("submit", csv, "--data", five_images, "--message", "again")
    assert status == 0
    assert "submission 42: public score 0.97" in said


def test_what_kaggle_does_not_take_or_cannot_score_is_an_error(
    command, fake, five_images, tmp_path
):
    csv = tmp_path / "submission.csv"
    csv.write_bytes(SOUND)
    fake.faults["PUT"] = [400]
    status, _, err = command("submit", csv, "--data", five_images)
    assert status == 1
    assert f"{csv} could not be uploaded to Kaggle" in err
    fake.submit_answer = {"message": "You have submitted too often today"}
    status, _, err = command("submit", csv, "--data", five_images)
    assert status == 1
    assert "Kaggle answers 'You have submitted too often today'" in err
    assert fake.submissions == []
    fake.submit_answer, fake.submission_statuses = None, ["ERROR"]
    status, _, err = command("submit", csv, "--data", five_images)
    assert status == 1
    assert "Kaggle could not score submission 41: wrong ids." in err
