"""flowerkit as the benchmarks call it: public names only, in the order in which training uses them."""


def open_training(data, side: str, *, batch: int, keep: str = "auto"):
    """(batches, step) of `input_pipeline`'s side "ours", "ours-host" or "ours-device".

    The step is what is left to do where the batch arrives; None: nothing.
    """
    from flowerkit.decoding import load_split
    from flowerkit.pipeline import epoch_order, training_batches
    from flowerkit.plan import Augmentation

    split = load_split(data, "train", keep=keep, order=lambda n: epoch_order(n, seed=0, epoch=0))
    augmentation = Augmentation(flip=side != "ours")
    batches = training_batches(
        split, global_batch=batch, seed=0, augmentation=augmentation, on_host=side != "ours-device"
    )
    return batches, make_step(side, augmentation)


def make_step(side: str, augmentation):
    """uint8 -> float32 in 0..1, as the classic pipeline delivers them."""
    import keras

    def scale(images, labels):
        return keras.ops.cast(images, "float32") / 255.0, labels

    def change_and_scale(images_and_draws, labels):
        from flowerkit.augment import augment

        return augment(*images_and_draws, augmentation) / 255.0, labels

    return {"ours": None, "ours-host": scale, "ours-device": change_and_scale}[side]
