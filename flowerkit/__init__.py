"""flowerkit: flower classification on TPU, GPU or CPU, from TFRecords to a submission you can trust.

    schedules    every learning-rate schedule: epoch -> rate
    metrics      macro F1, confusion matrix, calibration, paired bootstrap
    submission   the csv: write it, and the rules by which it is checked
    files, text  atomic writes and JSON; numbers and names in words; lazy: names loaded at first use
    console      log lines, progress, quiet frameworks
    accelerator  which device is here, and its start
    data         TFRecords, splits, duplicates          photos       a folder of photos becomes shards
    sources      where data comes from                  pipeline     batches and augmentation
    models       backbones, heads, classifiers          prediction   predictions, their scores, blends
    training     plan, phases, the story of a run       plots        pictures of what others computed
    reports      report.html and other pages            experiments  studies and comparisons of runs
    deploy       exports, classify, serve               kaggle       push a notebook, fetch its results
    cli          the command line

Importing flowerkit loads no framework. It only chooses the Keras backend, because Keras reads
`KERAS_BACKEND` once, at its first import. The names below arrive from their modules when first used.
"""

from flowerkit.accelerator import choose_backend as _choose_backend
from flowerkit.lazy import lazy

__version__ = "0.1.0"

_HOMES = {
    "connect": "accelerator",
    "start_session": "sources",
    "find_data": "sources",
    "load_photos": "photos",
    "convert_photos": "photos",
    "draw_competition": "sources",
    "draw_photos": "sources",
    "find_leaks": "data.leaks",
    "load_split": "data.splits",
    "build_classifier": "models.classifier",
    "TrainingPlan": "training",
    "load_plan": "training",
    "train": "training",
    "fine_tune": "training",
    "fit_one_cycle": "training",
    "lr_find": "training",
    "compute_features": "prediction.features",
    "run_study": "experiments.runs",
    "run_contest": "experiments.contest",
    "compare_runs": "experiments.comparison",
    "predict": "prediction.predictions",
    "Predictions": "prediction.predictions",
    "blend": "prediction.blending",
    "find_weights": "prediction.blending",
    "macro_f1": "metrics",
    "compute_cam": "models.cam",
    "write_report": "reports.run_report",
    "check_submission": "submission",
    "write_submission": "submission",
    "export_model": "deploy.exports",
    "Classifier": "deploy.classifier",
    "load_classifier": "deploy.classifier",
}
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
__all__ += ["__version__"]

_choose_backend()
