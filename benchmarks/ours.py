"""flowerkit as the benchmarks call it: public names only, in the order in which training uses them."""


def open_training(data, side: str, accelerator, *, batch: int, keep: str = "auto"):
    """(batches, step) of `input_pipeline`'s side "ours", "ours-host", "ours-device" or "ours-resident".

    The step is what is left to do where the batch arrives; None: nothing.
    """
    from flowerkit.data.split import load_split
    from flowerkit.pipeline.batches import epoch_permutation, train_batches
    from flowerkit.training.plan import Augmentation

    split = load_split(
        data, "train", keep=keep, order=lambda n: epoch_permutation(n, seed=0, epoch=0)
    )
    augmentation = Augmentation(flip=side != "ours")
    batches = train_batches(
        split,
        global_batch=batch,
        seed=0,
        augmentation=augmentation,
        on_host=side in ("ours", "ours-host"),
        rows_only=side == "ours-resident",
    )
    if side == "ours-resident":
        return batches, make_resident_step(split, augmentation, accelerator)
    return batches, make_step(side, augmentation)


def make_resident_step(split, augmentation, accelerator):
    """(rows, draws), labels -> float32 in 0..1 and the labels, of images in the device's memory."""
    import keras

    from flowerkit.pipeline.augment_device import Augment
    from flowerkit.pipeline.draws import COLUMNS
    from flowerkit.pipeline.resident import put_on_device

    with accelerator.scope():
        rows = keras.Input((), dtype="int32")
        draws = keras.Input((len(COLUMNS),), dtype="float32")
        labels = keras.Input((), dtype="int32")
        take = put_on_device(split.images, accelerator)
        if take is None:
            raise SystemExit("the images do not fit: there is nothing to measure")
        changed = Augment(augmentation)((take(rows), draws)) / 255.0
        return keras.Model(((rows, draws), labels), (changed, labels))


def make_step(side: str, augmentation):
    """uint8 -> float32 in 0..1, as the classic pipeline delivers them."""
    import keras

    def scale(images, labels):
        return keras.ops.cast(images, "float32") / 255.0, labels

    def change_and_scale(images_and_draws, labels):
        from flowerkit.pipeline.augment_device import augment

        return augment(*images_and_draws, augmentation) / 255.0, labels

    return {"ours": None, "ours-host": scale, "ours-device": change_and_scale}[side]
