"""fastai's three lines beside `flowerkit train`: macro F1 on val and CPU seconds, of the same backbone.

    pip install timm fastai
    python benchmarks/beside_fastai.py --data DATA --backbone FILE --out OUT --rounds 1

DATA holds tfrecords-jpeg-SxS/; the backbone is an EfficientNet-Lite0 in Keras's format, whose weights
are copied into timm's `tf_efficientnet_lite0`; both must give the same features of four photos. The
side fastai reads the JPEGs of train and val from folders of classes and does what fastai's pages show:

    dls = ImageDataLoaders.from_folder(
        OUT/photos, valid="val", item_tfms=Resize(224), batch_tfms=aug_transforms())
    learn = vision_learner(dls, "tf_efficientnet_lite0", metrics=error_rate)
    learn.fine_tune(epochs)

The side ours is `flowerkit train --data DATA --backbone FILE --max-minutes M`, with its csv of test and
its report; ours-half has half of the minutes. CPU seconds are those of the whole command, helpers and
imports included. Where --minutes costs as many CPU seconds as fastai took, the table compares equals.
"""

import os
import subprocess
import sys
from pathlib import Path

import harness
from harness import ROOT

ARCH = "tf_efficientnet_lite0"
MEAN, STD = 127 / 255, 128 / 255  # Lite0's (x - 127) / 128, for pixels of 0 to 1


def main() -> None:
    """Export photos and weights once, then run the sides, and print the table."""
    # Otherwise glibc returns PyTorch's memory after each layer: on a CPU half of fastai's time.
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": "9000000000", "MALLOC_MMAP_THRESHOLD_": "9000000000"}
    harness.main(
        __doc__,
        measure,
        sides=["fastai", "ours", "ours-half"],
        columns={
            "process_cpu_seconds": "CPU, s",
            "process_seconds": "wall, s",
            "val_f1": "macro F1",
            "val_accuracy": "accuracy",
        },
        prepare=export_once,
        backbone=("lite0.keras", "the .keras file"),
        out=("beside-fastai", "a folder for photos, weights and runs, for each data set its own"),
        epochs=(2, "epochs of fine_tune, after its frozen one"),
        minutes=(5.0, "--max-minutes of ours"),
        seed=(0, "of both"),
    )


def export_once(args, folder: Path) -> None:
    """Photos and weights in --out, by a process of its own, so that this one stays small."""
    if not (Path(args.out) / "lite0.npz").is_file():
        harness.run_child(harness.side_command("export"))


def measure(args) -> dict:
    """One side; the export is one, too."""
    out = Path(args.out)
    if args.side == "export":
        export_photos(args.data, out / "photos")
        export_weights(args.backbone, out)
        return {}
    if args.side == "fastai":
        predictions = run_fastai(out, args.epochs, args.seed)
    else:
        minutes = args.minutes / (2 if args.side == "ours-half" else 1)
        predictions = run_ours(args, out / f"{args.side}-{args.seed}-{minutes:g}", minutes)
    return predictions.score()


def export_photos(data: Path, folder: Path) -> None:
    """`folder`/train and /val: the JPEGs byte by byte, in folders named by their label."""
    from flowerkit.data import read_records

    files = harness.find_data(data).files
    for split in ("train", "val"):
        for shard in files[split]:
            for _, record in read_records(shard):
                place = folder / split / f"{record.label:03d}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{record.id}.jpg").write_bytes(record.image)


def export_weights(backbone: str, out: Path) -> None:
    """`out`/lite0.npz: the backbone in PyTorch's order, four photos, and its features of them."""
    import keras
    import numpy as np

    from flowerkit.data import decode_jpeg

    arrays = []
    body = keras.saving.load_model(backbone, compile=False)
    for layer in body.layers:
        values = [np.asarray(weight) for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            arrays += [kernel.transpose(2, 3, 0, 1) for kernel in values]
        elif isinstance(layer, keras.layers.Conv2D):
            arrays += [kernel.transpose(3, 2, 0, 1) for kernel in values]
        else:
            arrays += values
    files = sorted((out / "photos" / "val").glob("*/*.jpg"))
    pixels = np.stack([decode_jpeg(file.read_bytes()) for file in files[:: len(files) // 3][:4]])
    features = body.predict(pixels.astype("float32"), verbose=0)
    named = {f"{number:03d}": array for number, array in enumerate(arrays)}
    np.savez(out / "lite0.npz", pixels=pixels, features=features, **named)


def load_weights(body, file: Path) -> None:
    """Copy the arrays into timm's body by position; SystemExit if a shape or the features differ."""
    import numpy as np
    import torch
    from torch import nn

    targets = []
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            targets += [module.weight]
        elif isinstance(module, nn.BatchNorm2d):
            targets += [module.weight, module.bias, module.running_mean, module.running_var]
    saved = dict(np.load(file))
    pixels, features = saved.pop("pixels"), saved.pop("features")
    arrays = [saved[name] for name in sorted(saved)]
    if [tuple(target.shape) for target in targets] != [array.shape for array in arrays]:
        raise SystemExit(f"{len(arrays)} arrays of the backbone do not fit {ARCH}.")
    with torch.no_grad():
        for target, array in zip(targets, arrays, strict=True):
            target.copy_(torch.from_numpy(array))
        given = torch.from_numpy((pixels.astype("float32") - 127) / 128).permute(0, 3, 1, 2)
        theirs = body.eval()(given).permute(0, 2, 3, 1).numpy()
    body.train()
    gap = np.abs(theirs - features).max()
    print(f"largest difference of features {gap:.1e}, of values up to {features.max():.1f}")
    if not gap < 1e-3:
        raise SystemExit(f"the features of {ARCH} differ by {gap:g} from the backbone's.")


def run_fastai(out: Path, epochs: int, seed: int):
    """The three lines of the documentation, then the predictions of val."""
    import numpy as np
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        aug_transforms,
        error_rate,
        set_seed,
        vision_learner,
    )

    from flowerkit.prediction import Predictions

    set_seed(seed, reproducible=True)
    dls = ImageDataLoaders.from_folder(
        out / "photos", valid="val", item_tfms=Resize(224), batch_tfms=aug_transforms()
    )
    # What pretrained=True does, with these weights in place of a download.
    learn = vision_learner(dls, ARCH, metrics=error_rate, pretrained=False)
    load_weights(learn.model[0], out / "lite0.npz")
    dls.add_tfms([Normalize.from_stats([MEAN] * 3, [STD] * 3)], "after_batch")
    learn.freeze()
    learn.fine_tune(epochs)

    found, truth = learn.get_preds(dl=dls.valid)
    classes = np.array([int(name) for name in dls.vocab])
    probabilities = np.zeros((len(found), classes.max() + 1), "float32")
    probabilities[:, classes] = found.numpy()
    ids = np.array([Path(file).stem for file in dls.valid_ds.items])
    predictions = Predictions(ids, probabilities, classes[truth.numpy()].astype("int32"))
    predictions.save(out / f"fastai-{seed}-{epochs}.npz")
    return predictions


def run_ours(args, run: Path, minutes: float):
    """The one command, then the predictions of val that it left."""
    from flowerkit.prediction import Predictions

    command = f"-m flowerkit train --max-minutes {minutes:g} --seed {args.seed}".split()
    places = ["--data", args.data, "--backbone", args.backbone, "--out", run]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command, *places], check=True, env=here, stdout=sys.stderr)
    return Predictions.load(run / "val_predictions.npz")


if __name__ == "__main__":
    main()
