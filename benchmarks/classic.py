"""The classic notebook's code: what thousands of notebooks of this competition do, written from its
description, and as fast as they have it (AUTOTUNE everywhere, order given up for speed).

Every image is decoded again each epoch, cast to float32 in 0..1 and flipped alone; the cast pictures
are what is shuffled, batched and, in the variant with a cache, kept.
"""

import math
from collections.abc import Sequence
from pathlib import Path

SHUFFLE_BUFFER = 2048


def list_shards(folder: Path, split: str, size: int) -> list[str]:
    """The shards of a split, in the competition's layout."""
    return sorted(map(str, Path(folder, f"tfrecords-jpeg-{size}x{size}", split).glob("*.tfrec")))


def load_dataset(files: Sequence[str], size: int, *, labelled: bool = True, ordered: bool = False):
    """(image, label), or (image, id) where there are no labels: one float32 image in 0..1 at a time."""
    import tensorflow as tf

    def decode_image(data):
        image = tf.image.decode_jpeg(data, channels=3)
        image = tf.cast(image, tf.float32) / 255.0
        return tf.reshape(image, [size, size, 3])

    def read_record(example):
        other = "class" if labelled else "id"
        kind = tf.int64 if labelled else tf.string
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            other: tf.io.FixedLenFeature([], kind),
        }
        record = tf.io.parse_single_example(example, features)
        image = decode_image(record["image"])
        return image, tf.cast(record[other], tf.int32) if labelled else record[other]

    options = tf.data.Options()
    options.deterministic = ordered
    dataset = tf.data.TFRecordDataset(list(files), num_parallel_reads=tf.data.AUTOTUNE)
    return dataset.with_options(options).map(read_record, num_parallel_calls=tf.data.AUTOTUNE)


def training_dataset(files: Sequence[str], size: int, batch: int, *, cached: bool = False):
    """Endless batches for fit; `cached` keeps the float images, as the careful notebooks do."""
    import tensorflow as tf

    dataset = load_dataset(files, size)
    if cached:
        dataset = dataset.cache()
    dataset = dataset.map(flip_one, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.repeat().shuffle(SHUFFLE_BUFFER).batch(batch)
    return dataset.prefetch(tf.data.AUTOTUNE)


def flip_one(image, label):
    """The notebooks' augmentation: one image, mirrored or not."""
    import tensorflow as tf

    return tf.image.random_flip_left_right(image), label


def validation_dataset(files: Sequence[str], size: int, batch: int):
    """Every val image once, cached as float32 batches."""
    import tensorflow as tf

    return load_dataset(files, size).batch(batch).cache().prefetch(tf.data.AUTOTUNE)


def test_dataset(files: Sequence[str], size: int, batch: int):
    """(images, ids) in a fixed order: the notebooks walk through it twice."""
    import tensorflow as tf

    dataset = load_dataset(files, size, labelled=False, ordered=True)
    return dataset.batch(batch).prefetch(tf.data.AUTOTUNE)


def build_model(num_classes: int, size: int, *, backbone: str = "DenseNet121", weights=None):
    """Backbone, BatchNormalization, Dropout, GlobalAveragePooling2D, Dense; compiled with Adam.

    It takes float32 images in 0..1. "tiny" is flowerkit's small backbone under the same head.
    """
    import keras

    if backbone == "tiny":
        from flowerkit.models.classifier import build_classifier

        body = build_classifier(2, image_size=size, backbone="tiny", weights=None)
        body = body.get_layer("backbone")
    else:
        build = getattr(keras.applications, backbone)
        body = build(weights=weights, include_top=False, input_shape=(size, size, 3))
    model = keras.Sequential(
        [
            body,
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_classes, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss="sparse_categorical_crossentropy",
        metrics=["sparse_categorical_accuracy"],
    )
    return model


def fit(model, dataset, *, steps: int, epochs: int, rate: float = 1e-3, callbacks=(), **options):
    """`fit` as the notebooks call it: a LearningRateScheduler, no progress bar."""
    import keras

    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rate, verbose=0)
    return model.fit(
        dataset,
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=[scheduler, *callbacks],
        verbose=0,
        **options,
    )


def write_submission(model, files: Sequence[str], size: int, batch: int, path: Path) -> None:
    """Predict the images, then read everything once more for the ids, and write both."""
    import numpy as np

    dataset = test_dataset(files, size, batch)
    images = dataset.map(lambda image, image_id: image)
    labels = np.argmax(model.predict(images, verbose=0), axis=-1)
    ids_of = dataset.map(lambda image, image_id: image_id).unbatch()
    ids = np.concatenate([part.numpy() for part in ids_of.batch(4096)]).astype("U")
    np.savetxt(
        path,
        np.rec.fromarrays([ids, labels]),
        fmt=["%s", "%d"],
        delimiter=",",
        header="id,label",
        comments="",
    )


def steps_per_epoch(num_images: int, batch: int) -> int:
    """Training steps an epoch, as the notebooks count them."""
    return num_images // batch


def count_batches(num_images: int, batch: int) -> int:
    """Evaluation batches, the last one perhaps smaller."""
    return math.ceil(num_images / batch)
