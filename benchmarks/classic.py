"""The peer: what thousands of notebooks of this competition do, as fast as they have it.

AUTOTUNE everywhere, order given up for speed. Every image is decoded again each epoch, cast to
float32 in 0..1 and flipped alone; the cast images are shuffled, batched and perhaps cached.
"""

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
        key, dtype = ("class", tf.int64) if labelled else ("id", tf.string)
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            key: tf.io.FixedLenFeature([], dtype),
        }
        record = tf.io.parse_single_example(example, features)
        return decode_image(record["image"]), (
            tf.cast(record[key], tf.int32) if labelled else record[key]
        )

    options = tf.data.Options()
    options.deterministic = ordered
    dataset = tf.data.TFRecordDataset(list(files), num_parallel_reads=tf.data.AUTOTUNE)
    return dataset.with_options(options).map(read_record, num_parallel_calls=tf.data.AUTOTUNE)


def training_dataset(files: Sequence[str], size: int, batch: int, *, cached: bool = False):
    """Endless batches for fit; `cached` keeps the float images, as the careful notebooks do."""
    import tensorflow as tf

    def flip(image, label):
        return tf.image.random_flip_left_right(image), label

    dataset = load_dataset(files, size)
    if cached:
        dataset = dataset.cache()
    dataset = dataset.map(flip, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.repeat().shuffle(SHUFFLE_BUFFER).batch(batch)
    return dataset.prefetch(tf.data.AUTOTUNE)


def validation_dataset(files: Sequence[str], size: int, batch: int):
    """Every val image once, cached as float32 batches."""
    import tensorflow as tf

    return load_dataset(files, size).batch(batch).cache().prefetch(tf.data.AUTOTUNE)


def build_model(num_classes: int, size: int, *, backbone: str = "DenseNet121"):
    """Fresh backbone, BatchNormalization, Dropout, GlobalAveragePooling2D, Dense; compiled with Adam.

    It takes float32 images in 0..1. "tiny" is flowerkit's small backbone under the same head.
    """
    import keras

    if backbone == "tiny":
        import flowerkit

        classifier = flowerkit.build_classifier(2, image_size=size, backbone="tiny", weights=None)
        body = classifier.get_layer("backbone")
    else:
        build = getattr(keras.applications, backbone)
        body = build(weights=None, include_top=False, input_shape=(size, size, 3))
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
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["sparse_categorical_accuracy"],
    )
    return model


def fit(model, dataset, *, steps: int, epochs: int, callbacks=(), validation_data=None):
    """`fit` as the notebooks call it: a LearningRateScheduler, no progress bar."""
    import keras

    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3)
    return model.fit(
        dataset,
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=[scheduler, *callbacks],
        validation_data=validation_data,
        verbose=0,
    )


def write_submission(model, files: Sequence[str], size: int, batch: int, path: Path) -> None:
    """Predict the images, then read everything once more for the ids, and write both."""
    import numpy as np

    dataset = load_dataset(files, size, labelled=False, ordered=True).batch(batch)
    images = dataset.map(lambda image, image_id: image)
    labels = np.argmax(model.predict(images, verbose=0), axis=-1)
    ids = dataset.map(lambda image, image_id: image_id).unbatch()
    ids = np.concatenate([part.numpy() for part in ids.batch(4096)]).astype("U")
    np.savetxt(
        path,
        np.rec.fromarrays([ids, labels]),
        fmt=["%s", "%d"],
        delimiter=",",
        header="id,label",
        comments="",
    )
