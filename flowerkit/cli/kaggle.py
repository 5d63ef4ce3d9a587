"""The Kaggle commands of the command line; what they say goes to `tell`, a line at a time."""

import contextlib
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from flowerkit.kaggle.bundle import BUNDLE, SOURCE, check_bundle
from flowerkit.sources.competition import SLUG
from flowerkit.files import find_free_folder
from flowerkit.kaggle.client import Client, KaggleError, Patience, sign_in, split_name
from flowerkit.kaggle.results import (
    CSV,
    SUBMISSIONS,
    check_csv,
    check_folder,
    find_csv,
    pull,
    refuse_unfinished,
    submit_file,
    submit_version,
    wait_for_score,
)
from flowerkit.kaggle.metadata import find_device, lint, read_metadata, write_bundle
from flowerkit.kaggle.round_trip import NotReady, RunFailed, find_version, push, watch

Tell = Callable[[str], None]


def run_kaggle_command(args, tell: Tell) -> int:
    """Run bundle, push, watch, pull or submit; the exit status: 0 done, 1 problems were found."""
    try:
        return _COMMANDS[args.command](args, tell)
    except NotReady as error:
        for problem in error.problems:
            tell(str(problem))
        raise
    except RunFailed as error:
        if error.tail:
            tell("the last lines of its log:")
        for line in error.tail:
            tell(f"  {line}")
        raise


def _run_bundle(args, tell: Tell) -> int:
    if args.check:
        problems = check_bundle(args.root)
        for problem in problems:
            tell(str(problem))
        if not problems:
            tell(f"{args.root / BUNDLE} is in step with flowerkit/ and {SOURCE}")
        return int(bool(problems))
    for path in write_bundle(args.root, owner=args.owner):
        tell(f"wrote {path} ({path.stat().st_size:,} bytes)")
    problems = lint(args.root)
    for problem in problems:
        tell(f"before a push: {problem}")
    if not problems:
        tell(
            "ready: push it with `flowerkit push`, or with the plain client, `kaggle kernels push`"
        )
    return 0


def _run_push(args, tell: Tell) -> int:
    client = _sign_in(args, tell)
    data = _find_measure(args)  # before the hours of a run: a slip in an option is known now
    if args.out:
        check_folder(args.out)
    pushed = push(client, args.root, owner=args.owner, require=args.require)
    version = f" version {pushed.version}" if pushed.version else ""
    tell(f"pushed {pushed.kernel}{version}: {pushed.url}")
    require = args.require or _find_wish(args.root)
    follow = f"flowerkit watch {pushed.run}" + (f" --require {require}" if require else "")
    if args.no_watch:
        tell(f"follow it with: {follow}")
        return 0
    with _telling(client, f"the run goes on; follow it with: {follow}"):
        _watch(client, pushed.run, require)
    out = args.out or find_free_folder("runs", "kaggle")
    with _telling(client, f"fetch it with: flowerkit pull {pushed.run} {shlex.quote(str(out))}"):
        files = pull(client, pushed.run, out)
    return _check_pulled(client, find_csv(pushed.run, files), data, args, submit=args.submit)


def _run_watch(args, tell: Tell) -> int:
    kernel, client = _read_kernel(args.kernel), _sign_in(args, tell)
    try:
        _watch(client, kernel, args.require)
    except KeyboardInterrupt:
        require = f" --require {args.require}" if args.require else ""
        tell(f"the run goes on; follow it with: flowerkit watch {kernel}{require}")
        raise
    tell(f"fetch what it made with: flowerkit pull {kernel} OUT")
    return 0


def _run_pull(args, tell: Tell) -> int:
    kernel, client = _read_kernel(args.kernel), _sign_in(args, tell)
    data = _find_measure(args)
    refuse_unfinished(client, kernel)
    files = pull(client, kernel, args.out)
    return _check_pulled(client, find_csv(kernel, files), data, args, submit=False)


def _run_submit(args, tell: Tell) -> int:
    if args.what.is_dir():
        inside = args.what / CSV
        known = (
            f"its csv: {inside}" if inside.is_file() else "a csv file, or OWNER/NAME of a notebook"
        )
        raise ValueError(f"{args.what} is a folder. Pass {known}.")
    if args.what.is_file() or args.what.suffix == ".csv":
        if args.version:
            raise ValueError(f"--version {args.version} is of a notebook, {args.what} is a file.")
        if _check(args.what, _find_measure(args), tell) and not _is_forced(args, tell):
            return 1
        return _submit(_sign_in(args, tell), args.what, args)
    kernel = _read_kernel(str(args.what))
    return _submit_version(_sign_in(args, tell), kernel, args)


def _sign_in(args, tell: Tell) -> Client:
    patience = Patience(
        poll_seconds=args.poll_seconds, retry_seconds=args.retry_seconds, max_tries=args.tries
    )
    return sign_in(patience, tell)


def _read_kernel(text: str) -> str:
    """OWNER/NAME or OWNER/NAME/VERSION, also of a whole address."""
    return "/".join(str(part) for part in split_name(text) if part is not None)


def _find_measure(args):
    """The data whose ids a csv must hold; None where none is named."""
    from flowerkit.sources.finder import find_data

    return find_data(args.data) if args.data else None


def _find_wish(root: Path) -> str | None:
    """The accelerator that the metadata asks for, and that the run must then have got."""
    device = find_device(read_metadata(root))
    return None if device == "cpu" else device


@contextlib.contextmanager
def _telling(client: Client, hint: str):
    """How to go on, where the way to Kaggle fails or the user has seen enough."""
    try:
        yield
    except RunFailed:  # it does not go on
        raise
    except (KeyboardInterrupt, KaggleError):
        client.tell(hint)
        raise


def _watch(client: Client, kernel: str, require: str | None) -> None:
    log = watch(client, kernel, require=require)
    client.tell(f"{kernel} is done, on {log.device or 'a device that its log does not name'}")


def _check_pulled(client: Client, csv: Path, data, args, *, submit: bool) -> int:
    problems = _check(csv, data, client.tell)
    if submit and (not problems or _is_forced(args, client.tell)):
        return _submit(client, csv, args)
    if not problems and not submit:
        client.tell(f"submit it with: flowerkit submit {shlex.quote(str(csv))}")
    return int(bool(problems))


def _check(csv: Path, data, tell: Tell) -> list[str]:
    problems = check_csv(csv, data)
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        tell("\n  ".join([f"{csv}: {len(problems):,} {noun}", *problems]))
    else:
        measure = "every id of the data once" if data is not None else "its form; ids need --data"
        tell(f"{csv}: sound ({measure})")
    return problems


def _is_forced(args, tell: Tell) -> bool:
    if args.even_if_unsound:
        tell("submitting it all the same, as --even-if-unsound says")
        return True
    tell("not submitted. Mend it, or pass --even-if-unsound")
    return False


def _submit(client: Client, csv: Path, args) -> int:
    return _report_score(client, submit_file(client, csv, message=args.message))


def _submit_version(client: Client, kernel: str, args) -> int:
    """What Kaggle would take is fetched and checked first."""
    data = _find_measure(args)
    owner, name, version = split_name(kernel)
    kernel = f"{owner}/{name}"
    newest = find_version(client, kernel)
    version = args.version or version or newest
    if not newest:
        raise KaggleError(f"Kaggle knows no version of {kernel}. Check the name, or push it first.")
    if version > newest:
        raise KaggleError(f"{kernel} has no version {version}; the newest is {newest}.")
    run = f"{kernel}/{version}"
    refuse_unfinished(client, run)
    client.tell(f"fetching the csv of {run}, to check it")
    with tempfile.TemporaryDirectory(prefix="flowerkit-") as folder:
        csv = find_csv(run, pull(client, run, folder, only=CSV))
        if _check(csv, data, client.tell) and not _is_forced(args, client.tell):
            return 1
    return _report_score(client, submit_version(client, kernel, version, message=args.message))


def _report_score(client: Client, number: int) -> int:
    client.tell(f"submission {number} to {SLUG} is in; waiting for its score")
    score = wait_for_score(client, number)
    known = f"public score {score}" if score else f"no score yet; it will stand at {SUBMISSIONS}"
    client.tell(f"submission {number}: {known}")
    return 0


_COMMANDS = {
    "bundle": _run_bundle,
    "push": _run_push,
    "watch": _run_watch,
    "pull": _run_pull,
    "submit": _run_submit,
}
