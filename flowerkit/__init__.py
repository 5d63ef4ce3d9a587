"""flowerkit: flower classification on TPU, GPU or CPU, from TFRecords to a submission one can trust.

Importing flowerkit loads no framework. It only chooses the Keras backend, because Keras reads
`KERAS_BACKEND` once, at its first import. The names below arrive from their modules when first used.
"""

import importlib

from flowerkit import accelerator

__version__ = "0.1.0"

_HOME = {
    "connect": "accelerator",
    "find_data": "sources",
    "load_photos": "photos",
    "convert_photos": "photos",
    "draw_competition": "synthetic",
    "draw_photos": "synthetic",
    "check_data": "leaks",
    "load_split": "decoding",
    "build_classifier": "models",
    "TrainingPlan": "plan",
    "load_plan": "plan",
    "train": "training",
    "fine_tune": "training",
    "fit_one_cycle": "training",
    "search_rates": "lr_search",
    "compute_features": "features",
    "run_study": "study_runs",
    "compare_runs": "compare",
    "predict": "prediction",
    "Predictions": "prediction",
    "blend": "blending",
    "find_weights": "blending",
    "macro_f1": "evaluation",
    "compute_attention": "attention_maps",
    "write_report": "report",
    "check_submission": "submission",
    "write_submission": "submission",
    "export_model": "exports",
    "Classifier": "classifier",
    "load_classifier": "classifier",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'flowerkit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flowerkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__


accelerator.choose_backend()
