"""The commands that use a trained model: export, classify and serve; lines go to `tell`."""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.terminal import quiet_frameworks
from flowerkit.deploy.formats import FORMATS, detect_format
from flowerkit.files import write_text
from flowerkit.text import pluralize

Echo = Callable[[str], None]
FIRST_PORT = 7860


def run_export(args, echo: Echo, progress) -> int:
    """Export a run; 0 when it was written and checked."""
    detect_format(args.model)
    with quiet_frameworks():
        from flowerkit.deploy.exports import export_model

        export = export_model(args.model, args.out, args.format)
    echo(f"wrote {export}")
    return 0


def run_classify(args, echo: Echo, progress) -> int:
    """Classify photos; 0 when all of them could be read, else 1."""
    from flowerkit.deploy.classifier import Classifier

    with quiet_frameworks():
        classifier = Classifier.load(args.model)
    echo(str(classifier))
    answers = classifier.predict(args.photos, batch_size=args.batch, progress=progress)
    top = min(args.top, len(classifier.class_names))
    for answer in answers:
        echo(answer.describe(top))
    if len(answers) > 1:
        echo(_sum_up(answers))
    if args.csv:
        write_text(args.csv, _tabulate(answers, top))
        echo(f"wrote {args.csv}")
    unread = sum(answer.probabilities is None for answer in answers)
    if unread:
        echo(f"{unread:,} of {pluralize(len(answers), 'file')} could not be read")
    return int(unread > 0)


def run_serve(args, echo: Echo, progress) -> int:
    """Serve a page for one model on this machine, until interrupted."""
    from flowerkit.deploy.classifier import Classifier
    from flowerkit.deploy.serving import build_page, check_port, import_gradio, serve

    check_port(args.port)
    detect_format(args.model)  # what is missing is said before frameworks take their seconds
    with quiet_frameworks():
        import_gradio()
        classifier = Classifier.load(args.model)
        page = build_page(classifier, top=args.top)
    echo(str(classifier))
    with serve(page, port=args.port, max_mb=args.max_mb) as url:
        echo(f"open {url} in a browser of this machine; Ctrl-C ends it")
        page.block_thread()
    return 0


def _sum_up(answers) -> str:
    """How many photos each class got, the most frequent first."""
    predicted = Counter(
        answer.classes[0][0] for answer in answers if answer.probabilities is not None
    )
    shares = ", ".join(f"{name} {num:,}" for name, num in predicted.most_common())
    return f"{pluralize(predicted.total(), 'photo')}: {shares or 'none was read'}"


def _tabulate(answers, top: int) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    table.writerow(["photo", *ranks, "problem"])
    for answer in answers:
        pairs = [] if answer.probabilities is None else answer.classes[:top]
        cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
        blanks = [""] * (len(ranks) - len(cells))
        table.writerow([answer.source, *cells, *blanks, answer.problem or ""])
    return text.getvalue()


# Options ------------------------------------------------------------------------------------------


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """RUN, --format and --out."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="RUN",
        help="a run of `flowerkit train`, or an exported .keras file",
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="onnx",
        help="what to write; litert is also called TFLite [onnx]",
    )
    names = ", ".join(one.file for one in FORMATS.values())
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the file or folder to write [in the run: {names}]",
    )


def add_classify_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, PHOTO..., --top, --csv and --batch."""
    _add_model(parser)
    parser.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of them"
    )
    _add_top(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table too")
    parser.add_argument(
        "--batch", type=_at_least_one, default=32, metavar="N", help="photos at a time [32]"
    )


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, --port, --top and --max-mb."""
    _add_model(parser)
    parser.add_argument(
        "--port",
        type=_at_least_one,
        default=FIRST_PORT,
        metavar="N",
        help=f"of 127.0.0.1 [{FIRST_PORT}]",
    )
    _add_top(parser)
    parser.add_argument(
        "--max-mb",
        type=_at_least_one,
        default=20,
        metavar="N",
        help="the largest photo that is taken, in MB [20]",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a run folder, or an export of one"
    )


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top", type=_at_least_one, default=3, metavar="N", help="how many classes are shown [3]"
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text!r}")
    return int(text)
