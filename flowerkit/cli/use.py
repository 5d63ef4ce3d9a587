"""export, classify, serve and clean."""

import argparse
import contextlib
import shlex
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.options import add_number, add_path
from flowerkit.cli.terminal import Echo, Progress
from flowerkit.console import quiet_frameworks
from flowerkit.deploy import ACCEPT, DECISIONS, FORMATS, check_accept, check_similar, detect_format
from flowerkit.files import check_writable, write_text
from flowerkit.text import format_csv, pluralize
from flowerkit.training import RunFolder

SHOWN_DOUBTS = 10


def add_export_options(parser: argparse.ArgumentParser) -> None:
    model = "a run of `flowerkit train`, or an exported .keras file"
    add_path(parser, "model", "RUN", model, takes=["run", "model"])
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="onnx",
        help="the format of the file; litert is also called TFLite [onnx]",
    )
    files = ", ".join(format.file for format in FORMATS.values())
    add_path(parser, "--out", "FILE", f"the file or folder to write [in the run: {files}]")


def run_export(args, echo: Echo, progress: Progress) -> int:
    detect_format(args.model)  # a missing model is an error before frameworks take their seconds
    if args.out:
        check_writable(args.out.parent)
    with quiet_frameworks():
        from flowerkit.deploy import export_model

        export = export_model(args.model, args.out, args.format)
    echo(f"wrote {export}")
    return 0


def add_classify_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    add_path(
        parser,
        "photos",
        "PHOTO",
        "photos, or folders of them",
        takes=["photo", "photos"],
        nargs="+",
    )
    add_path(parser, "--csv", "FILE", "write a table too")
    help = "the number of nearest training photos named with each photo; it needs the run's data"
    add_number(parser, "--similar", 0, help, _read_count)


def run_classify(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.deploy import list_files

    detect_format(args.model)
    photos = [photo for path in args.photos for photo in list_files(path)]
    if args.csv:
        _check_table(args.csv)
    with quiet_frameworks():
        from flowerkit.deploy import load_classifier

        classifier = load_classifier(args.model)
    echo(str(classifier))
    predictions = classifier.predict(
        photos, accept=args.accept, similar=args.similar, progress=progress
    )
    top = min(args.top, len(classifier.class_names))
    for prediction in predictions:
        echo(prediction.describe(top))
        for photo in prediction.similar:
            echo(f"  like {photo}")
    if len(predictions) > 1:
        echo(_count_classes(predictions))
    if args.csv:
        write_text(args.csv, _tabulate(predictions, top, args.similar))
        echo(f"wrote {args.csv}")
    unread = sum(prediction.problem is not None for prediction in predictions)
    if unread:
        echo(f"{unread:,} of {pluralize(len(predictions), 'file')} could not be read")
    return int(unread > 0)


_TABLE = ["photo", "answer"]  # its first columns


def _check_table(file: Path) -> None:
    """Refuse to replace what is no older table: it may be the labels of the photos."""
    start = ",".join(_TABLE).encode()
    if file.is_dir() or (file.exists() and not file.read_bytes().startswith(start)):
        raise FileExistsError(
            f"{file} exists and is no table of `flowerkit classify`. Name another csv (--csv)."
        )
    check_writable(file.parent)


def _count_classes(predictions) -> str:
    """The number of photos of each class, the most frequent first."""
    counts = Counter(prediction.name for prediction in predictions if not prediction.problem)
    shares = ", ".join(f"{name} {num:,}" for name, num in counts.most_common())
    return f"{pluralize(counts.total(), 'photo')}: {shares or 'none could be read'}"


def _tabulate(predictions, top: int, similar: int) -> str:
    columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability")]
    similar = min(similar, max(len(prediction.similar) for prediction in predictions))
    for rank in range(1, similar + 1):
        columns += [f"similar_{rank}", f"similar_class_{rank}", f"similarity_{rank}"]
    rows = [[*_TABLE, *columns, "problem"]]
    for prediction in predictions:
        answer, pairs = "", []
        if not prediction.problem:
            answer, pairs = prediction.name, prediction.classes[:top]
        cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
        for photo in prediction.similar:
            cells += [photo.name, photo.class_name, f"{photo.similarity:.6f}"]
        blanks = [""] * (len(columns) - len(cells))
        rows.append([prediction.source, answer, *cells, *blanks, prediction.problem])
    return format_csv(rows)


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    help = "the port on 127.0.0.1 [the first free one from 7860]"
    add_number(parser, "--port", None, help, _port)
    help = "the number of nearest training photos shown, if the run's data are there; 0: none"
    add_number(parser, "--similar", 6, help, _read_count)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"must be in 1..65535. Received: {text!r}")
    return int(text)


def run_serve(args, echo: Echo, progress: Progress) -> int:
    detect_format(args.model)
    with quiet_frameworks():
        from flowerkit.deploy import ClassifierPage, load_classifier

        classifier = load_classifier(args.model)
        page = ClassifierPage(
            classifier, top=args.top, accept=args.accept, similar=args.similar, progress=progress
        )
    echo(str(classifier))
    _serve_until_stopped(page, args.port, echo)
    return 0


def _serve_until_stopped(page, port: int | None, echo: Echo) -> None:
    from flowerkit.deploy import serve_locally

    with serve_locally(page, port=port) as url:
        echo(f"open {url} in a browser on this machine; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def add_clean_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "run_folder", "RUN", "a run of `flowerkit train`", takes=["run"])
    data = "the folder of its shards, if they were moved"
    add_path(parser, "--data", "DIR", data, takes=["data"])
    add_path(parser, "--out", "CSV", "the decisions, which continue if they are there [in the run]")
    top = "the number of labels shown [as many as are probably wrong, at least a twentieth of all]"
    add_number(parser, "--top", None, top)
    parser.add_argument(
        "--csv-only",
        action="store_true",
        help="no page: write the list to a new csv, whose column `new` is filled in by hand",
    )
    add_number(parser, "--port", None, "the port on 127.0.0.1 [the first free one from 7860]")


def run_clean(args, echo: Echo, progress: Progress) -> int:
    run = RunFolder(args.run_folder)
    run.plan()  # what is no run is an error before frameworks take their seconds
    file = args.out or run.path / DECISIONS
    if args.csv_only and file.exists():
        raise FileExistsError(f"{file} is there already. Name another csv (--out).")
    from flowerkit.deploy import LabelReview, ReviewPage

    review = LabelReview(run, file, folder=args.data, progress=progress)
    labels = pluralize(len(review.doubts), "label")
    echo(f"about {review.num_issues:,} of {labels} are wrong; the most doubtful:")
    shown = review.first(args.top)
    for doubt in shown[:SHOWN_DOUBTS]:
        echo(f"  {doubt}")
    if review.num_unjudged:
        photos = pluralize(review.num_unjudged, "photo")
        echo(f"not judged: {photos} of classes without another photo to compare with")
    if args.csv_only:
        review.write_list(file, shown)
        echo(f"wrote {file} ({pluralize(len(shown), 'label')})")
        echo("fill in the column new: a class, or 'leave out'; an empty one changes nothing")
    else:
        _serve_until_stopped(ReviewPage(review, args.top), args.port, echo)
        echo(f"{file} has {pluralize(len(review.decisions), 'decision')}")
    data = run.environment().data
    source = shlex.quote(data.photos or str(args.data or data.folder))
    echo(f"next: flowerkit train --data {source} --labels {shlex.quote(str(file))}")
    return 0


def _add_model(parser: argparse.ArgumentParser) -> None:
    add_path(
        parser, "model", "MODEL", "a run folder, or an export of a run", takes=["run", "model"]
    )
    add_number(parser, "--top", 3, "the number of classes shown")
    help = (
        "the fraction of the run's val photos that are of a known class; photos of which the model is "
        "less certain are of none of these classes"
    )
    add_number(parser, "--accept", ACCEPT, help, _read_accept)


def _read_count(text: str) -> int:
    return _read(int, check_similar, text)


def _read_accept(text: str) -> float:
    return _read(float, check_accept, text)


def _read(kind: type, check: Callable, text: str) -> int | float:
    """A number that `check` takes, or argparse's error."""
    value = text  # what is no number is refused with what it must be
    with contextlib.suppress(ValueError):
        value = kind(text)
    try:
        check(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from None
    return value
