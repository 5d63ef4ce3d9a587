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
        "augmentation": "Augmentation check_between setting",
        "augment_params": "PARAMS sample_params",
        "augment_layer": "Augment augment_images",
        "batches": "Batches epoch_permutation eval_batches feature_batches "
        "own_first steps_per_epoch train_batches",
        "previews": "preview_batch",
    },
)
