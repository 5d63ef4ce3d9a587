"""From predictions to a csv that has been checked; what is found goes to `tell`, a line at a time."""

from collections.abc import Callable
from pathlib import Path

from flowerkit.sources import find_test_ids
from flowerkit.submission import check_submission, read_labels, write_submission
from flowerkit.tfrecords import FlowerData

SHOWN_PROBLEMS = 50

Tell = Callable[[str], None]


def predict_and_submit(
    model, data: FlowerData, csv: Path, tell: Tell, *, global_batch: int, on_corrupt: str = "raise"
) -> list[str]:
    """Predict the test split of `data` with a Keras model, write its csv, and answer its problems."""
    from flowerkit.decoding import load_split
    from flowerkit.prediction import predict

    test = load_split(data, "test", on_corrupt=on_corrupt)
    return submit(predict(model, test, global_batch=global_batch), data, csv, tell)


def submit(predictions, data: FlowerData, csv: Path, tell: Tell) -> list[str]:
    """Write the csv of `Predictions` and answer its problems, as `tell_problems` does."""
    write_submission(csv, predictions.ids, predictions.guesses)
    return tell_problems(csv, data, tell)


def tell_problems(csv: Path, data: FlowerData, tell: Tell) -> list[str]:
    """Check a csv against the test split of `data`: every problem, [] if it is sound.

    All are answered; of many, the first 50 are told. Of a sound one the score is told as well, where
    the test images' labels are known (`test_labels.csv`, of a folder of photos). Raises
    FileNotFoundError if it is not there.
    """
    ids = find_test_ids(data)
    problems = check_submission(csv, ids, data.num_classes)
    if not problems:
        tell(f"{csv}: {len(ids):,} rows, every id once, labels in 0..{data.num_classes - 1}: sound")
        _tell_score(csv, data, tell)
        return []
    noun = "problem" if len(problems) == 1 else "problems"
    tell(f"{csv}: {len(problems):,} {noun}")
    for problem in problems[:SHOWN_PROBLEMS]:
        tell(f"  {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        tell(f"  ... and {len(problems) - SHOWN_PROBLEMS:,} more")
    return problems


def _tell_score(csv: Path, data: FlowerData, tell: Tell) -> None:
    # Here: these load NumPy, and every command reads this room for its options.
    from flowerkit.evaluation import accuracy, macro_f1
    from flowerkit.photo_folder import TEST_LABELS

    known = data.folder / TEST_LABELS
    if not known.is_file():
        return
    labels, guesses = read_labels(known), read_labels(csv)
    labels = {name: label for name, label in labels.items() if name in guesses}
    pair = list(labels.values()), [guesses[name] for name in labels]
    if labels:
        tell(
            f"on test, by {known.name}: macro F1 {macro_f1(*pair):.4f}, accuracy "
            f"{accuracy(*pair):.4f} ({len(labels):,} images)"
        )
