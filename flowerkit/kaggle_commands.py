"""The Kaggle commands of the command line; what they say goes to `tell`, a line at a time."""

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from flowerkit.competition import SLUG
from flowerkit.files import find_free_folder
from flowerkit.kaggle_client import Client, KaggleError, Patience, sign_in
from flowerkit.kaggle_results import (
    SUBMISSIONS,
    check_csv,
    find_csv,
    pull,
    submit_file,
    submit_version,
    wait_for_score,
)
from flowerkit.kernel import check_bundle, lint, read_metadata, write_bundle
from flowerkit.round_trip import NotReady, RunFailed, find_version, push, split_name, watch

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
        return int(bool(problems))
    for path in write_bundle(args.root, owner=args.owner):
        tell(f"wrote {path} ({path.stat().st_size:,} bytes)")
    for problem in lint(args.root):
        tell(f"before a push: {problem}")
    return 0


def _run_push(args, tell: Tell) -> int:
    client = _sign_in(args, tell)
    pushed = push(client, args.root, owner=args.owner)
    version = f" version {pushed.version}" if pushed.version else ""
    tell(f"pushed {pushed.kernel}{version}: {pushed.url}")
    if args.no_watch:
        tell(f"follow it with: flowerkit watch {pushed.run}")
        return 0
    require = args.require or ("tpu" if read_metadata(args.root).get("enable_tpu") else None)
    _watch(client, pushed.run, require)
    out = args.out or find_free_folder("runs", "kaggle")
    return _pull_and_check(client, pushed.run, out, args, submit=args.submit)


def _run_watch(args, tell: Tell) -> int:
    _watch(_sign_in(args, tell), args.kernel, args.require)
    tell(f"fetch what it made with: flowerkit pull {args.kernel} OUT")
    return 0


def _run_pull(args, tell: Tell) -> int:
    return _pull_and_check(_sign_in(args, tell), args.kernel, args.out, args, submit=False)


def _run_submit(args, tell: Tell) -> int:
    if args.what.is_file() or args.what.suffix == ".csv":
        if args.version:
            raise ValueError(f"--version {args.version} is of a notebook, {args.what} is a file.")
        if _check(args.what, args, tell) and not _is_forced(args, tell):
            return 1
        return _submit(_sign_in(args, tell), args.what, args)
    return _submit_version(_sign_in(args, tell), str(args.what), args)


def _sign_in(args, tell: Tell) -> Client:
    patience = Patience(
        poll_seconds=args.poll_seconds, retry_seconds=args.retry_seconds, max_tries=args.tries
    )
    return sign_in(patience, tell)


def _watch(client: Client, kernel: str, require: str | None) -> None:
    try:
        log = watch(client, kernel, require=require)
    except KeyboardInterrupt:
        client.tell(f"the run goes on; follow it with: flowerkit watch {kernel}")
        raise
    client.tell(f"{kernel} is done, on {log.device or 'a device that its log does not name'}")


def _pull_and_check(client: Client, kernel: str, out: Path, args, *, submit: bool) -> int:
    csv = find_csv(kernel, pull(client, kernel, out))
    problems = _check(csv, args, client.tell)
    if submit and (not problems or _is_forced(args, client.tell)):
        return _submit(client, csv, args)
    if not problems and not submit:
        client.tell(f"submit it with: flowerkit submit {shlex.quote(str(csv))}")
    return int(bool(problems))


def _check(csv: Path, args, tell: Tell) -> list[str]:
    from flowerkit.sources import find_data

    problems = check_csv(csv, find_data(args.data) if args.data else None)
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        tell("\n  ".join([f"{csv}: {len(problems):,} {noun}", *problems]))
    else:
        measure = "every id of the data once" if args.data else "its form; ids need --data"
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
    owner, name, version = split_name(kernel)
    kernel = f"{owner}/{name}"
    version = args.version or version or find_version(client, kernel)
    if not version:
        raise KaggleError(f"Kaggle knows no version of {kernel}. Check the name, or push it first.")
    with tempfile.TemporaryDirectory(prefix="flowerkit-") as folder:
        csv = find_csv(kernel, pull(client, f"{kernel}/{version}", folder))
        if _check(csv, args, client.tell) and not _is_forced(args, client.tell):
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
