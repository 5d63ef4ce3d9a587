"""The Kaggle commands of the command line; what they say goes to `tell`, a line at a time."""

import contextlib
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from flowerkit.files import find_free_folder
from flowerkit.kaggle.bundle import BUNDLE, SOURCE, check_bundle
from flowerkit.kaggle.client import Client, KaggleError, RetryPolicy, sign_in, split_name
from flowerkit.kaggle.metadata import find_device, lint, read_metadata, write_bundle
from flowerkit.kaggle.push import NotReady, RunFailed, find_version, push, watch
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
from flowerkit.sources.competition import SLUG

Echo = Callable[[str], None]


def run_kaggle_command(args, echo: Echo) -> int:
    """Run bundle, push, watch, pull or submit; the exit status: 0 done, 1 problems were found."""
    try:
        return _COMMANDS[args.command](args, echo)
    except NotReady as error:
        for problem in error.problems:
            echo(str(problem))
        raise
    except RunFailed as error:
        if error.tail:
            echo("the last lines of its log:")
        for line in error.tail:
            echo(f"  {line}")
        raise


def _run_bundle(args, echo: Echo) -> int:
    if args.check:
        problems = check_bundle(args.root)
        for problem in problems:
            echo(str(problem))
        if not problems:
            echo(f"{args.root / BUNDLE} is in step with flowerkit/ and {SOURCE}")
        return int(bool(problems))
    for path in write_bundle(args.root, owner=args.owner):
        echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
    problems = lint(args.root)
    for problem in problems:
        echo(f"before a push: {problem}")
    if not problems:
        echo(
            "ready: push it with `flowerkit push`, or with the plain client, `kaggle kernels push`"
        )
    return 0


def _run_push(args, echo: Echo) -> int:
    client = _sign_in(args, echo)
    data = _find_measure(args)  # before the hours of a run: a slip in an option is known now
    if args.out:
        check_folder(args.out)
    pushed = push(client, args.root, owner=args.owner, require=args.require)
    version = f" version {pushed.version}" if pushed.version else ""
    echo(f"pushed {pushed.kernel}{version}: {pushed.url}")
    require = args.require or _find_wish(args.root)
    follow = f"flowerkit watch {pushed.run}" + (f" --require {require}" if require else "")
    if args.no_watch:
        echo(f"follow it with: {follow}")
        return 0
    with _telling(client, f"the run goes on; follow it with: {follow}"):
        _watch(client, pushed.run, require)
    out = args.out or find_free_folder("runs", "kaggle")
    with _telling(client, f"fetch it with: flowerkit pull {pushed.run} {shlex.quote(str(out))}"):
        files = pull(client, pushed.run, out)
    return _check_pulled(client, find_csv(pushed.run, files), data, args, submit=args.submit)


def _run_watch(args, echo: Echo) -> int:
    kernel, client = _read_kernel(args.kernel), _sign_in(args, echo)
    try:
        _watch(client, kernel, args.require)
    except KeyboardInterrupt:
        require = f" --require {args.require}" if args.require else ""
        echo(f"the run goes on; follow it with: flowerkit watch {kernel}{require}")
        raise
    echo(f"fetch what it made with: flowerkit pull {kernel} OUT")
    return 0


def _run_pull(args, echo: Echo) -> int:
    kernel, client = _read_kernel(args.kernel), _sign_in(args, echo)
    data = _find_measure(args)
    refuse_unfinished(client, kernel)
    files = pull(client, kernel, args.out)
    return _check_pulled(client, find_csv(kernel, files), data, args, submit=False)


def _run_submit(args, echo: Echo) -> int:
    if args.what.is_dir():
        inside = args.what / CSV
        known = (
            f"its csv: {inside}" if inside.is_file() else "a csv file, or OWNER/NAME of a notebook"
        )
        raise ValueError(f"{args.what} is a folder. Pass {known}.")
    if args.what.is_file() or args.what.suffix == ".csv":
        if args.version:
            raise ValueError(f"--version {args.version} is of a notebook, {args.what} is a file.")
        if _check(args.what, _find_measure(args), echo) and not _is_forced(args, echo):
            return 1
        return _submit(_sign_in(args, echo), args.what, args)
    kernel = _read_kernel(str(args.what))
    return _submit_version(_sign_in(args, echo), kernel, args)


def _sign_in(args, echo: Echo) -> Client:
    patience = RetryPolicy(
        poll_seconds=args.poll_seconds, retry_seconds=args.retry_seconds, max_tries=args.tries
    )
    return sign_in(patience, echo)


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
        client.echo(hint)
        raise


def _watch(client: Client, kernel: str, require: str | None) -> None:
    log = watch(client, kernel, require=require)
    client.echo(f"{kernel} is done, on {log.device or 'a device that its log does not name'}")


def _check_pulled(client: Client, csv: Path, data, args, *, submit: bool) -> int:
    problems = _check(csv, data, client.echo)
    if submit and (not problems or _is_forced(args, client.echo)):
        return _submit(client, csv, args)
    if not problems and not submit:
        client.echo(f"submit it with: flowerkit submit {shlex.quote(str(csv))}")
    return int(bool(problems))


def _check(csv: Path, data, echo: Echo) -> list[str]:
    problems = check_csv(csv, data)
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        echo("\n  ".join([f"{csv}: {len(problems):,} {noun}", *problems]))
    else:
        measure = "every id of the data once" if data is not None else "its form; ids need --data"
        echo(f"{csv}: sound ({measure})")
    return problems


def _is_forced(args, echo: Echo) -> bool:
    if args.even_if_unsound:
        echo("submitting it all the same, as --force says")
        return True
    echo("not submitted. Mend it, or pass --force")
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
    client.echo(f"fetching the csv of {run}, to check it")
    with tempfile.TemporaryDirectory(prefix="flowerkit-") as folder:
        csv = find_csv(run, pull(client, run, folder, only=CSV))
        if _check(csv, data, client.echo) and not _is_forced(args, client.echo):
            return 1
    return _report_score(client, submit_version(client, kernel, version, message=args.message))


def _report_score(client: Client, number: int) -> int:
    client.echo(f"submission {number} to {SLUG} is in; waiting for its score")
    score = wait_for_score(client, number)
    known = f"public score {score}" if score else f"no score yet; it will stand at {SUBMISSIONS}"
    client.echo(f"submission {number}: {known}")
    return 0


_COMMANDS = {
    "bundle": _run_bundle,
    "push": _run_push,
    "watch": _run_watch,
    "pull": _run_pull,
    "submit": _run_submit,
}
