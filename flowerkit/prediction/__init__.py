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
        "predictions": "LIGHT_CROP_AREA Predictions predict",
        "blending": "blend find_weights",
        "features": "Features compute_features describe_data describe_split predict_features",
        "label_issues": "LabelIssues find_label_issues predict_out_of_fold",
    },
)
