"""The csv of a test split: which file it is, writing it, its problems and its score."""

from pathlib import Path

from flowerkit.data import FlowerData
from flowerkit.photos import load_conversion
from flowerkit.sources.finder import find_test_ids, read_test_labels
from flowerkit.submission import (
    check_csv,
    holds_predictions,
    name_csv,
    read_labels,
    read_predictions,
    write_predictions,
    write_submission,
)


def choose_csv(data: FlowerData) -> str:
    """The name of the file that predictions of test are written to."""
    return name_csv(is_of_photos=load_conversion(data.folder) is not None)


def write_csv(path: Path, predictions, data: FlowerData) -> list[str]:
    """Write the `Predictions` of test in the form of `choose_csv`, whatever `path` is called.

    Returns the problems of the csv, [] if it is right.
    """
    if load_conversion(data.folder) is None:
        write_submission(path, predictions.ids, predictions.predicted, data.csv_labels)
    else:
        write_predictions(
            path,
            predictions.ids,
            predictions.predicted,
            predictions.probabilities.max(axis=1),
            data.class_names,
            read_test_labels(data),
        )
    return find_problems(path, data)


def find_problems(path: Path, data: FlowerData) -> list[str]:
    """Every problem of a submission.csv or a predictions.csv, which its header tells apart."""
    return check_csv(path, find_test_ids(data), data.class_names, data.csv_labels)


def find_score(path: Path, data: FlowerData) -> tuple[float, float, int] | None:
    """Macro F1, accuracy and number of images of a valid csv; None where no test label is known."""
    from flowerkit.metrics import accuracy, macro_f1  # they load scikit-learn

    true = read_test_labels(data)
    if true is None:
        return None
    if holds_predictions(path):
        found = read_predictions(path, data.class_names)
    else:
        found = read_labels(path, data.csv_labels)
    labels = {name: label for name, label in true.items() if name in found}
    if not labels:
        return None
    true, predicted = list(labels.values()), [found[name] for name in labels]
    return macro_f1(true, predicted), accuracy(true, predicted), len(labels)
