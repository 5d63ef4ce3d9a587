"""The commands that use a trained model: export, classify and serve."""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.option_kinds import at_least_one
from flowerkit.cli.terminal import quiet_frameworks
from flowerkit.deploy import FORMATS, detect_format
from flowerkit.files import write_text
from flowerkit.text import pluralize

Echo = Callable[[str], None]


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
        help="the format of the file; litert is also called TFLite [onnx]",
    )
    files = ", ".join(format.file for format in FORMATS.values())
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the file or folder to write [in the run: {files}]",
    )


def run_export(args, echo: Echo, progress) -> int:
    """Export a run; 0 when the export was written and checked."""
    detect_format(args.model)  # a missing model is an error before frameworks take their seconds
    with quiet_frameworks():
        from flowerkit.deploy import export_model

        export = export_model(args.model, args.out, args.format)
    echo(f"wrote {export}")
    return 0


def add_classify_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, PHOTO..., --top and --csv."""
    _add_model(parser)
    parser.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of them"
    )
    _add_top(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table too")


def run_classify(args, echo: Echo, progress) -> int:
    """Classify photos; 0 if all of them could be read, else 1."""
    detect_format(args.model)
    with quiet_frameworks():
        from flowerkit.deploy import load_classifier

        classifier = load_classifier(args.model)
    echo(str(classifier))
    predictions = classifier.predict(args.photos, progress=progress)
    top = min(args.top, len(classifier.class_names))
    for prediction in predictions:
        echo(prediction.describe(top))
    if len(predictions) > 1:
        echo(_count_classes(predictions))
    if args.csv:
        write_text(args.csv, _tabulate(predictions, top))
        echo(f"wrote {args.csv}")
    unread = sum(prediction.problem is not None for prediction in predictions)
    if unread:
        echo(f"{unread:,} of {pluralize(len(predictions), 'file')} could not be read")
    return int(unread > 0)


def _count_classes(predictions: list) -> str:
    """The number of photos of each class, the most frequent first."""
    counts = Counter(prediction.name for prediction in predictions if not prediction.problem)
    shares = ", ".join(f"{name} {num:,}" for name, num in counts.most_common())
    return f"{pluralize(counts.total(), 'photo')}: {shares or 'none could be read'}"


def _tabulate(predictions: list, top: int) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    ranks = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability")]
    table.writerow(["photo", *ranks, "problem"])
    for prediction in predictions:
        pairs = [] if prediction.problem else prediction.classes[:top]
        cells = [cell for name, share in pairs for cell in (name, f"{share:.6f}")]
        blanks = [""] * (len(ranks) - len(cells))
        table.writerow([prediction.source, *cells, *blanks, prediction.problem or ""])
    return text.getvalue()


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, --port and --top."""
    _add_model(parser)
    parser.add_argument(
        "--port",
        type=at_least_one,
        metavar="N",
        help="the port on 127.0.0.1 [the first free one from 7860]",
    )
    _add_top(parser)


def run_serve(args, echo: Echo, progress) -> int:
    """Serve a page for a model on this machine, until interrupted."""
    from flowerkit.deploy import build_page, import_gradio, load_classifier, serve

    detect_format(args.model)
    with quiet_frameworks():
        import_gradio()
        classifier = load_classifier(args.model)
        page = build_page(classifier, top=args.top)
    echo(str(classifier))
    with serve(page, port=args.port) as url:
        echo(f"open {url} in a browser on this machine; Ctrl-C ends it")
        page.block_thread()
    return 0


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a run folder, or an export of a run"
    )


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top", type=at_least_one, default=3, metavar="N", help="the number of classes shown [3]"
    )
