"""From a run on Kaggle to a score: fetch its outputs, check its csv, submit it."""

import re
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from flowerkit import __version__
from flowerkit.data import FlowerData
from flowerkit.files import make_folder, write_text
from flowerkit.kaggle.client import RULES, Client, KaggleError, KernelRun
from flowerkit.kaggle.push import FINISHED, describe_end, find_version, get_session, read_log
from flowerkit.sources import CLASS_NAMES, SLUG, find_test_ids
from flowerkit.submission import check_submission
from flowerkit.text import join_some, pluralize

CSV = "submission.csv"
NUM_TEST_IMAGES = 7_382  # of the competition
NUM_SCORE_POLLS = 15
SUBMISSIONS = f"https://www.kaggle.com/competitions/{SLUG}/submissions"


# Fetch --------------------------------------------------------------------------------------------


def pull_outputs(
    client: Client, run: KernelRun, out: str | Path, *, csv_only: bool = False
) -> Path:
    """Fetch a run's outputs and its log, or its csv alone, into the folder `out`; the csv's path.

    Files appear in `out` when all are there whole, and replace older ones. Raises KaggleError for a
    run that goes on or made no csv, OSError if the folder cannot be made.
    """
    session = get_session(client, run)
    status = session.status.name
    if status not in FINISHED:
        raise KaggleError(
            f"{run} is still {status.lower()}. Follow it with `flowerkit watch {run}`, or name "
            "an earlier version, OWNER/NAME/VERSION."
        )
    if status != "COMPLETE":
        client.echo(f"{describe_end(client, run, session)}; its outputs may be unfinished")
    out = make_folder(out)
    pattern = rf"(^|/){re.escape(CSV)}$" if csv_only else None
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=out) as folder:
        client.call(
            f"fetching the outputs of {run}",
            lambda: client.api.kernels_output(str(run), folder, file_pattern=pattern, force=True),
        )
        log = Path(folder, f"{run.name}.log")
        if log.is_file():
            write_text(log, client.scrub(read_log(log.read_text(encoding="utf-8"))))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = [path.relative_to(folder) for path in files]
        for path, name in zip(files, names, strict=True):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(out / name)
            client.echo(f"  {out / name} ({(out / name).stat().st_size:,} bytes)")
    found = [out / name for name in names if name.name == CSV]
    if not found:
        made = [str(name) for name in names if name.name != log.name]
        raise KaggleError(
            f"{run} made no {CSV} (it made {join_some(made, 10) or 'nothing'}). Its log shows "
            f"why: `flowerkit watch {run}`."
        )
    return min(found, key=lambda path: len(path.parts))


# Check --------------------------------------------------------------------------------------------


def check_csv(csv: str | Path, data: FlowerData | None = None) -> list[str]:
    """Every problem of a csv before it is submitted, in sentences; [] if it is valid.

    With `data` the csv must have its ids and classes. Without, it is compared with what is known of
    the competition: header, form, 104 classes, 7,382 different ids. Raises FileNotFoundError.
    """
    if data is not None:
        return check_submission(csv, find_test_ids(data), data.num_classes, data.csv_labels)
    path = Path(csv)
    lines = path.read_text("utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    ids = [line.split(",")[0].strip('" ') for line in lines[1:] if line.strip()]
    rows = pluralize(len(ids), "row")
    # The ids are the csv's own here, so their number is checked apart.
    problems = check_submission(csv, ids, len(CLASS_NAMES))
    problems = [line for line in problems if not line.startswith(rows)]
    if len(ids) != NUM_TEST_IMAGES:
        problems.append(f"{rows}; the competition's test set has {NUM_TEST_IMAGES:,}")
    return problems


# Submit -------------------------------------------------------------------------------------------


def resolve_version(client: Client, run: KernelRun) -> KernelRun:
    """The run with its version, the newest if it names none. Raises KaggleError if there is none."""
    newest = find_version(client, run)
    if not newest:
        raise KaggleError(
            f"Kaggle knows no version of {run.kernel}. Check the name, or push it first."
        )
    return replace(run, version=run.version or newest)


def submit(client: Client, source: Path | KernelRun, *, message: str | None = None) -> int:
    """Submit a csv, or the submission.csv that a version of a notebook made, without a check.

    Returns the submission's number. `message` names it on Kaggle. Raises KaggleError.
    """
    is_run = isinstance(source, KernelRun)
    if is_run:
        what = f"{source.kernel} version {source.version}"
    else:
        what = sha256(source.read_bytes()).hexdigest()[:8]
    text = message or f"flowerkit {__version__}, {what}"

    def send():
        if is_run:
            kernel, version = source.kernel, source.version
            return client.api.competition_submit_code(CSV, text, SLUG, kernel, version, quiet=True)
        return client.api.competition_submit(str(source), text, SLUG, quiet=True)

    before = {submission.ref for submission in _list_submissions(client)}

    def find_submitted():
        new = [entry for entry in _list_submissions(client) if entry.ref not in before]
        return next((entry for entry in new if entry.description == text), None)

    response = client.call(
        f"submitting {source}",
        send,
        find_result=find_submitted,
        suspects=f"the csv, and that the rules are accepted ({RULES})",
    )
    number = response.ref or getattr(find_submitted(), "ref", 0)
    if not number:  # Kaggle refuses with a message and status 200
        raise KaggleError(
            f"submitting {source}: Kaggle responds {client.scrub(response.message)!r}. Were the rules "
            f"accepted ({RULES}), and are submissions left for today ({SUBMISSIONS})?"
        )
    return number


def wait_for_score(client: Client, number: int) -> str | None:
    """The public score of a submission; None if it does not come in time. Raises KaggleError."""
    for _ in range(NUM_SCORE_POLLS):
        found = next((entry for entry in _list_submissions(client) if entry.ref == number), None)
        if found and found.status.name == "ERROR":
            reason = client.scrub(found.error_description or "no reason given")
            raise KaggleError(
                f"Kaggle could not score submission {number}: {reason}. See {SUBMISSIONS}"
            )
        if found and found.status.name == "COMPLETE":
            return found.public_score
        time.sleep(client.poll_seconds)
    return None


def _list_submissions(client: Client) -> list:
    list_all = client.api.competition_submissions
    return client.call("your submissions", lambda: list_all(SLUG, page_size=100)) or []
