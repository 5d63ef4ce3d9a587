"""From predictions to a csv that has been checked; what is found goes to `tell`, a line at a time."""

from collections.abc import Callable
from pathlib import Path

from flowerkit.data import FlowerData
from flowerkit.sources import find_test_ids
from flowerkit.submission import check_submission, read_labels, write_submission

SHOWN_PROBLEMS = 50

Echo = Callable[[str], None]


def predict_and_submit(
    model, data: FlowerData, csv: Path, echo: Echo, *, global_batch: int, on_corrupt: str = "raise"
) -> list[str]:
    """Predict the test split of `data` with a Keras model, write its csv, and answer its problems."""
    from flowerkit.data import load_split
    from flowerkit.prediction.predictions import predict

    test = load_split(data, "test", on_corrupt=on_corrupt)
    return submit(predict(model, test, global_batch=global_batch), data, csv, echo)


def submit(predictions, data: FlowerData, csv: Path, echo: Echo) -> list[str]:
    """Write the csv of `Predictions` and answer its problems, as `report_problems` does."""
    write_submission(csv, predictions.ids, predictions.predicted)
    return report_problems(csv, data, echo)


def report_problems(csv: Path, data: FlowerData, echo: Echo) -> list[str]:
    """Check a csv against the test split of `data`: every problem, [] if it is sound.

    All are answered; of many, the first 50 are told. Of a sound one the score is told as well, where
    the test images' labels are known (`test_labels.csv`, of a folder of photos). Raises
    FileNotFoundError if it is not there.
    """
    ids = find_test_ids(data)
    problems = check_submission(csv, ids, data.num_classes)
    if not problems:
        echo(f"{csv}: {len(ids):,} rows, every id once, labels in 0..{data.num_classes - 1}: sound")
        if score := find_score(csv, data):
            echo(
                f"on test, whose labels are known: macro F1 {score['test_f1']:.4f}, accuracy "
                f"{score['test_accuracy']:.4f} ({score['test_images']:,} images)"
            )
        return []
    noun = "problem" if len(problems) == 1 else "problems"
    echo(f"{csv}: {len(problems):,} {noun}")
    for problem in problems[:SHOWN_PROBLEMS]:
        echo(f"  {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        echo(f"  ... and {len(problems) - SHOWN_PROBLEMS:,} more")
    return problems


def find_score(csv: Path, data: FlowerData) -> dict[str, float]:
    """test_f1, test_accuracy and test_images of a sound csv, by the test images' known labels.

    {} where there is no test_labels.csv, as in the competition.
    """
    # Here: these load NumPy, and every command reads this room for its options.
    from flowerkit.metrics import accuracy, macro_f1
    from flowerkit.photos import TEST_LABELS

    known = data.folder / TEST_LABELS
    if not known.is_file():
        return {}
    labels, predicted = read_labels(known), read_labels(csv)
    labels = {name: label for name, label in labels.items() if name in predicted}
    if not labels:
        return {}
    pair = list(labels.values()), [predicted[name] for name in labels]
    return {
        "test_f1": macro_f1(*pair),
        "test_accuracy": accuracy(*pair),
        "test_images": len(labels),
    }
