"""Images a second through the training step, and the share of the device's peak.

    python benchmarks/train_step.py                                # on a CPU: a tiny network
    python benchmarks/train_step.py --backend jax --backbone DenseNet121 --size 224 --batch 128

keras-fit   the notebooks' network, plain `fit` on float32 images in memory
ours        `train` on uint8 images in memory: the augmentation of the plan `ramp` and the
            step, without validation
ours-plain  the same without augmentation
timm        where PyTorch and timm are installed: timm's network of that name in eager mode, channels
            last, under autocast; Adam on uint8 images in memory, without augmentation
timm-compiled  the same through `torch.compile`

The first epoch, which compiles, is in no figure; the others' median is. The arithmetic of a step is
what JAX counts in the unoptimised program, forward and backward: with TensorFlow it is unknown.
"""

import argparse
import csv
import importlib.util
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import harness

# Dense 16-bit peaks of one device in TFLOP/s, from the makers' data sheets, by a part of the name
# that JAX gives it; the first that fits. T4 and P100 have float16 alone.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L4": 121,
    "T4": 65,
    "P100": 18.7,
    "TPU v6": 918,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v4": 275,
    "TPU v3": 61.5,
    "TPU v2": 22.5,
}


SIDES = ("keras-fit", "ours", "ours-plain")
TIMM = {"tiny": "test_resnet"}  # else the same name in small letters
if importlib.util.find_spec("torch") and importlib.util.find_spec("timm"):
    SIDES += ("timm", "timm-compiled")


def measure(args: argparse.Namespace) -> dict:
    """The rate of one side in images a second, all replicas together."""
    import flowerkit

    if args.epochs < 2:
        raise SystemExit("--epochs must be 2 or more: the first is not counted")
    data = harness.find_data(args.data)
    if args.side.startswith("timm"):  # before JAX takes the memory of the GPU
        rates = fit_timm(args, data)
        return {"images_per_second": statistics.median(rates[1:]), "percent_of_peak": None}
    accelerator = flowerkit.connect(precision=args.precision)
    fit = fit_plainly if args.side == "keras-fit" else fit_ours
    rate = statistics.median(fit(args, data, accelerator)[1:])
    peak, flops = find_peak_flops(accelerator), None
    if peak:
        flops = count_flops(args, data, accelerator)
    return {
        "images_per_second": rate,
        "percent_of_peak": 100 * rate * flops / peak if flops else None,
    }


def fit_plainly(args, data, accelerator) -> list[float]:
    """The rate of each epoch of the notebooks' model."""
    import classic
    import keras
    import numpy as np

    import flowerkit

    train, marks = flowerkit.load_split(data, "train"), []
    batch = args.batch * accelerator.replicas
    num_images = len(train) // batch * batch
    images = np.asarray(train.images[:num_images], "float32") / 255
    with accelerator.scope():
        model = classic.build_model(data.num_classes, data.image_size, backbone=args.backbone)
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: marks.append([perf_counter()]),
        on_epoch_end=lambda epoch, logs: marks[-1].append(perf_counter()),
    )
    model.fit(
        images,
        train.labels[:num_images],
        batch_size=batch,
        epochs=args.epochs,
        callbacks=[clock],
        verbose=0,
    )
    return [num_images / (end - start) for start, end in marks]


def fit_ours(args, data, accelerator) -> list[float]:
    """The rate of each epoch in history.csv."""
    import flowerkit

    plan = replace(
        flowerkit.load_plan("ramp"),
        backbone=args.backbone,
        weights=None,
        epochs=args.epochs,
        per_replica_batch=args.batch,
        patience=None,
    )
    if args.side == "ours-plain":
        plan = replace(plan, flip=False, min_crop_area=1.0, random_erasing=0.0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        flowerkit.train(data, plan, out=out, accelerator=accelerator)
        with (out / "history.csv").open() as file:
            return [float(row["images_per_second"]) for row in csv.DictReader(file)]


def fit_timm(args, data) -> list[float]:
    """The rate of each epoch of PyTorch's usual loop; the last step of each is waited for."""
    import timm
    import torch

    import flowerkit

    train = flowerkit.load_split(data, "train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = TIMM.get(args.backbone, args.backbone.lower())
    model = timm.create_model(name, num_classes=data.num_classes)
    model = model.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(model) if args.side == "timm-compiled" else model
    torch.set_float32_matmul_precision("high")  # TF32, as JAX computes float32 on GPUs
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    optimizer = torch.optim.Adam(model.parameters())
    num_steps = len(train) // args.batch
    images = torch.from_numpy(train.images[: num_steps * args.batch]).permute(0, 3, 1, 2)
    labels = torch.as_tensor(train.labels[: num_steps * args.batch], dtype=torch.int64)
    mean = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(timm.data.IMAGENET_DEFAULT_STD, device=device).view(3, 1, 1)
    low = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(args.precision)
    rates = []
    for _ in range(args.epochs):
        start, order = perf_counter(), torch.randperm(len(images)).split(args.batch)
        for rows in order:
            batch = (
                images[rows].to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
            )
            batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=low, enabled=low is not None):
                logits = forward(batch)
            target = labels[rows].to(device, non_blocking=True)
            loss = torch.nn.functional.cross_entropy(logits.float(), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()  # waits
        rates.append(len(images) / (perf_counter() - start))
    return rates


def find_peak_flops(accelerator) -> float | None:
    """FLOP/s of all devices together; None where it is not known."""
    if accelerator.backend != "jax":
        return None
    import jax

    name = jax.devices()[0].device_kind
    peaks = [peak for part, peak in PEAKS.items() if part in name]
    return peaks[0] * 1e12 * accelerator.replicas if peaks else None


def count_flops(args, data, accelerator) -> float | None:
    """Forward and backward of one image, None where JAX does not say; nothing is compiled."""
    import jax
    import keras
    import numpy as np

    import flowerkit

    with accelerator.scope():
        model = flowerkit.build_classifier(
            data.num_classes, image_size=data.image_size, backbone=args.backbone, weights=None
        )

    def compute_loss(trained, fixed, images):
        outputs, fixed = model.stateless_call(trained, fixed, images, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(np.zeros(args.batch), outputs)
        return keras.ops.mean(loss), fixed

    variables = model.trainable_variables, model.non_trainable_variables
    values = [[variable.value for variable in group] for group in variables]
    images = np.zeros((args.batch, data.image_size, data.image_size, 3), "float32")
    lowered = jax.jit(jax.grad(compute_loss, has_aux=True)).lower(*values, images)
    flops = (lowered.cost_analysis() or {}).get("flops")
    return flops / args.batch if flops else None


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=SIDES,
        columns={"images_per_second": "images/s", "percent_of_peak": "% of peak"},
        images=2048,
        size=64,
        backbone=("tiny", "tiny or a Keras Applications name, without weights"),
        epochs=(4, "epochs, of which the first is not counted"),
        batch=(16, "images a step on each device"),
        precision=("auto", "float32, bfloat16 or float16 [by the device]"),
    )
