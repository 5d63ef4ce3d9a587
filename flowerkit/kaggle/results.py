"""The way back from Kaggle: pull what a run made, check its csv, submit it.

Kaggle's own client stores an error page as the file it asked for, and submits what nobody checked.
"""

import os
import re
import time
from hashlib import sha256
from pathlib import Path, PurePosixPath

from flowerkit import __version__
from flowerkit.data.tfrecords import FlowerData
from flowerkit.files import replacing, write_text
from flowerkit.kaggle.client import RULES, Client, KaggleError, split_name
from flowerkit.kaggle.push import (
    FINISHED,
    ask_status,
    describe_end,
    list_outputs,
    read_events,
    spell_status,
)
from flowerkit.sources.competition import CLASS_NAMES, SLUG
from flowerkit.submission import check_submission

CSV = "submission.csv"
NUM_TEST_IMAGES = 7_382  # of the competition
SUBMISSIONS = f"https://www.kaggle.com/competitions/{SLUG}/submissions"


# Pull ---------------------------------------------------------------------------------------------


def refuse_unfinished(client: Client, kernel: str) -> None:
    """Raises KaggleError for a run that goes on, whose outputs are not there; tells of a bad end."""
    answer = ask_status(client, kernel)
    status = answer.status.name
    if status not in FINISHED:
        raise KaggleError(
            f"{kernel} is still {spell_status(status)}. Follow it with `flowerkit watch {kernel}`, or "
            "name an earlier version, OWNER/NAME/VERSION."
        )
    if status != "COMPLETE":
        client.echo(f"{describe_end(client, kernel, answer)}; what it left may be unfinished")


def pull(client: Client, kernel: str, out: str | Path, *, only: str | None = None) -> list[Path]:
    """Fetch every output of a run, and its log, into the folder `out`; or the files named `only`.

    `kernel` is OWNER/NAME, the newest run, or OWNER/NAME/VERSION. Each file is written whole or not
    at all; one that is there is replaced. Returns their paths. Raises KaggleError, and ValueError
    where `out` cannot be written.
    """
    name = split_name(kernel)[1]
    check_folder(out)
    out, written, token, seen, log = Path(out), [], "", set(), ""
    while True:
        page = list_outputs(client, kernel, token)
        log = log or page.log or ""
        for file in page.files or ():
            if only and PurePosixPath(file.file_name).name != only:
                continue
            path = _place(out, file.file_name)
            client.ask(
                f"fetching {file.file_name}", lambda u=file.url, p=path: _fetch(client, u, p)
            )
            client.echo(f"  {path} ({path.stat().st_size:,} bytes)")
            written.append(path)
        token = page.next_page_token
        if not token:
            break
        if token in seen:
            raise KaggleError(f"Kaggle repeats a page of the outputs of {kernel}. Try again later.")
        seen.add(token)
    if log and not only:
        path = out / f"{name}.log"
        write_text(path, client.scrub("".join(read_events(log))))
        client.echo(f"  {path} (what it printed)")
        written.append(path)
    return written


def check_folder(out: str | Path) -> None:
    """ValueError if outputs cannot be written into `out`, which need not be there yet."""
    out = Path(out).absolute()
    place = next(place for place in (out, *out.parents) if place.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ValueError(
            f"{out} cannot hold the outputs: {place} is no folder that you may write into. Pass "
            "another one."
        )


def find_csv(kernel: str, files: list[Path]) -> Path:
    """The submission.csv among pulled files; KaggleError, with what is there, if there is none."""
    found = [path for path in files if path.name == CSV]
    if not found:
        log = next((path for path in files if path.name == f"{split_name(kernel)[1]}.log"), None)
        names = sorted(path.name for path in files if path != log)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        where = f"it stands in {log}" if log else f"`flowerkit watch {kernel}` shows it"
        raise KaggleError(
            f"{kernel} made no {CSV} (it made {', '.join(names[:10]) or 'nothing'}{more}). Its log "
            f"says why; {where}."
        )
    return min(found, key=lambda path: len(path.parts))


def _place(out: Path, name: str) -> Path:
    parts = PurePosixPath(name or "").parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
        raise KaggleError(
            f"the output {name!r} would be written outside {out}. It was not fetched."
        )
    return out.joinpath(*parts)


def _fetch(client: Client, url: str, path: Path) -> None:
    import requests

    limits = (client.patience.connect_seconds, client.patience.silence_seconds)
    # The address is signed: no credentials go there, and it is never shown.
    with requests.get(url, stream=True, timeout=limits) as response:
        response.raise_for_status()
        with replacing(path) as growing, growing.open("wb") as file:
            for chunk in response.iter_content(1 << 20):
                file.write(chunk)


# Check --------------------------------------------------------------------------------------------


def check_csv(csv: str | Path, data: FlowerData | None = None) -> list[str]:
    """Every problem of a csv that is to be submitted, as sentences; [] if it is sound.

    With `data` its ids and classes are the measure. Without, the csv is held against what is known
    of the competition: header, form, 104 classes, 7,382 ids, none twice. Raises FileNotFoundError.
    """
    if data is not None:
        from flowerkit.sources.finder import find_test_ids

        return check_submission(csv, find_test_ids(data), data.num_classes)
    path = Path(csv)
    lines = path.read_text("utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    ids = [line.split(",")[0].strip('" ') for line in lines[1:] if line.strip()]
    if path.is_file() and not ids:
        return [f"no rows; the competition's test set has {NUM_TEST_IMAGES:,}"]
    problems = check_submission(csv, ids, len(CLASS_NAMES))
    # Without data the ids are the csv's own, so how many were wanted says nothing.
    problems = [line for line in problems if not re.fullmatch(r"[\d,]+ rows?, wanted .*", line)]
    if len(ids) != NUM_TEST_IMAGES:
        problems.append(f"{len(ids):,} rows; the competition's test set has {NUM_TEST_IMAGES:,}")
    return problems


# Submit -------------------------------------------------------------------------------------------


def submit_file(client: Client, csv: str | Path, *, message: str | None = None) -> int:
    """Submit a csv, which the caller has checked; the submission's number. Raises KaggleError."""
    csv = Path(csv)
    if not csv.is_file():
        raise FileNotFoundError(f"no file {csv}. Check the path")
    message = message or f"flowerkit {__version__}, {sha256(csv.read_bytes()).hexdigest()[:8]}"

    def send():
        answer = client.api.competition_submit(str(csv), message, SLUG, quiet=True)
        # The client's word for an upload that failed; nothing was submitted then.
        if answer.message == client.api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise KaggleError(f"{csv} could not be uploaded to Kaggle. Try again later.")
        return answer

    return _submit(client, f"submitting {csv}", send, message)


def submit_version(client: Client, kernel: str, version: int, *, message: str | None = None) -> int:
    """Submit the submission.csv that a version of a notebook made; the submission's number.

    Kaggle takes the file from the run's outputs, which the caller has checked. Raises KaggleError.
    """
    message = message or f"flowerkit {__version__}, {kernel} version {version}"

    def send():
        return client.api.competition_submit_code(CSV, message, SLUG, kernel, version, quiet=True)

    return _submit(client, f"submitting {kernel} version {version}", send, message)


def wait_for_score(client: Client, number: int) -> str | None:
    """The public score of a submission; None if it is not there in time. Raises KaggleError."""
    for _ in range(client.patience.num_score_polls):
        mine = [one for one in _list_submissions(client) if one.ref == number]
        if mine and mine[0].status.name == "ERROR":
            reason = client.scrub(mine[0].error_description or "no reason given")
            raise KaggleError(
                f"Kaggle could not score submission {number}: {reason}. {SUBMISSIONS}"
            )
        if mine and mine[0].status.name == "COMPLETE":
            return mine[0].public_score
        time.sleep(client.patience.poll_seconds)
    return None


def _submit(client: Client, what: str, send, message: str) -> int:
    before = {one.ref for one in _list_submissions(client)}

    def find_arrived():
        new = [one for one in _list_submissions(client) if one.ref not in before]
        return next((one for one in new if one.description == message), None)

    answer = client.ask(what, send, arrived=find_arrived)
    number = answer.ref or getattr(find_arrived(), "ref", 0)
    if not number:  # a refusal comes as a message, with status 200
        raise KaggleError(
            f"{what}: Kaggle answers {client.scrub(answer.message)!r}. Were the rules accepted "
            f"({RULES}), and are submissions left for today ({SUBMISSIONS})?"
        )
    return number


def _list_submissions(client: Client) -> list:
    look = client.api.competition_submissions
    return client.ask("your submissions", lambda: look(SLUG, page_size=100)) or []
