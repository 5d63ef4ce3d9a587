"""Predictions of trained classifiers. Nothing here trains, writes a csv or draws.

predictions  predict a split once -> Predictions (ids, probabilities, labels); test-time augmentation
features     backbone outputs computed once, for a head that learns from them
label_issues which labels are probably wrong, by confident learning
blending     blend the Predictions of several models; find the weights on half of val
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "LIGHT_CROP_AREA": "predictions",
        "Predictions": "predictions",
        "predict": "predictions",
        "Features": "features",
        "compute_features": "features",
        "describe_data": "features",
        "predict_features": "features",
        "LabelIssues": "label_issues",
        "find_label_issues": "label_issues",
        "predict_out_of_fold": "label_issues",
        "blend": "blending",
        "find_weights": "blending",
    },
)
