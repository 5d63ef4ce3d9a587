"""Splits to training and evaluation batches, and the augmentation of training images.

Nothing here knows a network, a loss or a run. All random numbers are functions of (seed, epoch, row).

    augmentation     `Augmentation`: which changes, and how strong; loads no NumPy
    augment_params   what is sampled for each image of an epoch, and the labels of mixed images
    augment_layer    `Augment`: the changes themselves, inside the compiled training step
    batches          the order of an epoch; batches of images or features as NumPy arrays, made ahead
    tensorflow       the adapter to tf.data: the only module of this folder that imports TensorFlow
    previews         `preview_batch`: a few training images before and after augmentation
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Augmentation": "augmentation",
        "check_between": "augmentation",
        "setting": "augmentation",
        "PARAMS": "augment_params",
        "sample_params": "augment_params",
        "Augment": "augment_layer",
        "augment_images": "augment_layer",
        "ArraySpec": "batches",
        "Batches": "batches",
        "epoch_permutation": "batches",
        "eval_batches": "batches",
        "feature_batches": "batches",
        "own_first": "batches",
        "steps_per_epoch": "batches",
        "train_batches": "batches",
        "preview_batch": "previews",
    },
)
