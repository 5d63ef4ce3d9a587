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
    "accelerator": "connect",
    "sources": "start_session find_data draw_competition draw_photos",
    "photos": "load_photos convert_photos",
    "data.leaks": "find_leaks",
    "data.splits": "load_split",
    "models.classifier": "build_classifier",
    "training": "TrainingPlan load_plan train fine_tune fit_one_cycle lr_find",
    "prediction.features": "compute_features",
    "experiments.runs": "run_study",
    "experiments.contest": "run_contest",
    "experiments.comparison": "compare_runs",
    "prediction.predictions": "predict Predictions",
    "prediction.blending": "blend find_weights",
    "metrics": "macro_f1",
    "models.cam": "compute_cam",
    "reports.run_report": "write_report",
    "submission": "check_submission write_submission",
    "deploy.exports": "export_model",
    "deploy.classifier": "Classifier load_classifier",
}
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
__all__ += ["__version__"]

_choose_backend()
