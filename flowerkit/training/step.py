"""What a batch is, and what one training step does with it: the model and its batches side by side."""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from flowerkit.accelerator import Accelerator
from flowerkit.data import FlowerData, Split
from flowerkit.models import (
    after_resizing,
    build_classifier,
    choose_trainable,
    depth_of,
    freeze_backbone,
    split_classifier,
)
from flowerkit.pipeline import (
    PARAMS,
    Augment,
    Batches,
    epoch_permutation,
    feature_batches,
    train_batches,
)
from flowerkit.prediction import Predictions, predict
from flowerkit.schedules import rates_per_step
from flowerkit.training.features import Features, compute_features, predict_features
from flowerkit.training.history import History
from flowerkit.training.losses import build_loss, class_weights_for
from flowerkit.training.optimizers import TableRate, build_optimizer
from flowerkit.training.phases import Phase
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import RunFolder

Progress = Callable[[str, int, int], None]

STATISTICS_IMAGES = 512  # of which the statistics of norms are computed before validation


@dataclass(frozen=True)
class Deadline:
    """When a run must be done (`time.monotonic()`), and how many batches it predicts until then."""

    at: float
    num_val_batches: int
    num_test_batches: int


@dataclass(frozen=True, eq=False)
class RunContext:
    """What all phases of one run share.

    `global_batch` counts the images of a step over all replicas, `num_steps` the steps of an epoch;
    `history` grows. A range test has neither `val` nor folder nor history.
    """

    plan: TrainingPlan
    accelerator: Accelerator
    classifier: keras.Model
    train: Split
    val: Split | None
    global_batch: int
    num_steps: int
    folder: RunFolder | None = None
    history: History | None = None
    deadline: Deadline | None = None

    @property
    def num_classes(self) -> int:
        """The width of the classifier's output."""
        return self.classifier.output_shape[-1]


def build_model(plan: TrainingPlan, data: FlowerData, accelerator: Accelerator) -> keras.Model:
    """The classifier of `plan` for `data`, its fresh weights drawn from the plan's seed."""
    keras.utils.set_random_seed(plan.seed)
    with accelerator.scope():
        return build_classifier(
            data.num_classes,
            image_size=data.image_size,
            input_size=plan.input_size,
            backbone=plan.backbone,
            weights=plan.weights,
            head=plan.head,
            dropout=plan.dropout,
            binary=plan.binary,
        )


class TrainStep(abc.ABC):
    """The compiled model of a phase, the batches that it takes and the predictions that judge it.

    `model` shares the classifier's weights; what is done to training images alone is in it, and so in
    no file. Build it by `for_phase`, within the accelerator's scope.
    """

    model: keras.Model

    @staticmethod
    def for_phase(
        run: RunContext,
        phase: Phase,
        *,
        rates: list[float] | None = None,
        progress: Progress | None = None,
    ) -> "TrainStep":
        """On features where the phase is frozen, else on pixels.

        `rates`: one for each step, in place of the phase's schedule. Raises ValueError for class
        weights where a class has no image.
        """
        if phase.is_frozen:
            freeze_backbone(run.classifier)
        else:
            choose_trainable(
                run.classifier, run.plan.unfreeze_from, freeze_norms=run.plan.freeze_norms
            )
        if keras.backend.backend() == "jax":
            # Keras compiled predict for the split into trainable and other weights, which has changed.
            run.classifier.predict_function = None
        step = _FeatureStep(run, progress) if phase.is_frozen else _PixelStep(run)
        _compile(step.model, run, phase, rates)
        return step

    @abc.abstractmethod
    def batches(self, first_epoch: int) -> Batches:
        """Endless batches from the start of `first_epoch` (from 0), as `model` takes them."""

    @abc.abstractmethod
    def predict_val(self) -> Predictions:
        """The predictions of val, with the weights as they are now."""

    @property
    @abc.abstractmethod
    def judged(self) -> keras.Model:
        """The part of the classifier that learns and predicts here: all of it, or its head."""

    @abc.abstractmethod
    def statistics_batches(self) -> Iterator[np.ndarray]:
        """Some hundred training images (or their features) as `judged` sees them in validation."""

    def _statistics_rows(self) -> Iterator[np.ndarray]:
        """The same rows at each epoch, and in a resumed run, in whole batches."""
        size, num_images = self.run.global_batch, len(self.run.train)
        rows = epoch_permutation(num_images, seed=self.run.plan.seed, epoch=0)
        for batch in range(max(1, min(STATISTICS_IMAGES, num_images) // size)):
            yield rows[batch * size : (batch + 1) * size]

    @property
    def seconds_per_image(self) -> float:
        """What the whole network takes for an image, where computing features measured it; else 0."""
        return 0.0


class _PixelStep(TrainStep):
    """Batches are ((images uint8, augmentation parameters), labels); the whole classifier learns."""

    def __init__(self, run: RunContext):
        self.run = run
        self.augmentation = run.plan.augmentation()
        pixels = keras.Input(run.classifier.input_shape[1:], dtype="uint8", name="training_pixels")
        params = keras.Input((len(PARAMS),), dtype="float32", name="augmentation_params")
        # Augmented straight to the size that the backbone sees: one resampling, not two.
        classifier = after_resizing(run.classifier)
        self.size = classifier.input_shape[1]
        changed = Augment(self.augmentation, self.size, name="augment")((pixels, params))
        self.model = keras.Model((pixels, params), classifier(changed), name="training")

    def batches(self, first_epoch: int) -> Batches:
        return train_batches(
            self.run.train,
            global_batch=self.run.global_batch,
            seed=self.run.plan.seed,
            augmentation=self.augmentation,
            num_classes=self.run.num_classes,
            size=self.size,
            first_epoch=first_epoch,
        )

    def predict_val(self) -> Predictions:
        return predict(self.run.classifier, self.run.val, global_batch=self.run.global_batch)

    @property
    def judged(self) -> keras.Model:
        return self.run.classifier

    def statistics_batches(self) -> Iterator[np.ndarray]:
        return (np.asarray(self.run.train.images[rows]) for rows in self._statistics_rows())


class _FeatureStep(TrainStep):
    """Batches are (features float32, labels); the head alone learns, and val is judged by features."""

    def __init__(self, run: RunContext, progress: Progress | None):
        self.run, self.progress = run, progress
        self.body, self.head = split_classifier(run.classifier)
        inputs = keras.Input(self.head.input_shape[1:], dtype="float32", name="features")
        self.model = keras.Model(inputs, self.head(inputs), name="training")

    # Computed when first needed: a finished phase of a resumed run needs none.
    @cached_property
    def train(self) -> Features:
        """The features of the training images."""
        return self._compute(self.run.train, "train")

    @cached_property
    def val(self) -> Features:
        """The features of the validation images."""
        return self._compute(self.run.val, "val")

    def _compute(self, split: Split, name: str) -> Features:
        return compute_features(
            self.body, split, global_batch=self.run.global_batch, name=name, progress=self.progress
        )

    def batches(self, first_epoch: int) -> Batches:
        return feature_batches(
            self.train.array,
            self.train.labels,
            global_batch=self.run.global_batch,
            seed=self.run.plan.seed,
            num_classes=self.run.num_classes,
            first_epoch=first_epoch,
        )

    def predict_val(self) -> Predictions:
        return predict_features(self.head, self.val, global_batch=self.run.global_batch)

    @property
    def judged(self) -> keras.Model:
        return self.head

    def statistics_batches(self) -> Iterator[np.ndarray]:
        return (self.train.array[rows] for rows in self._statistics_rows())

    @property
    def seconds_per_image(self) -> float:
        return self.val.seconds / len(self.val)


def _compile(model: keras.Model, run: RunContext, phase: Phase, rates: list[float] | None) -> None:
    plan, device = run.plan, run.accelerator
    balanced = plan.class_weights == "balanced"
    model.compile(
        optimizer=_build_optimizer(model, run, phase, rates),
        loss=build_loss(
            label_smoothing=plan.label_smoothing,
            class_weights=class_weights_for(run.train.labels, run.num_classes)
            if balanced
            else None,
        ),
        # A metric object, like built slots, does not cost a second trace of the training step.
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        # XLA takes minutes to compile a convolution net for a CPU under TensorFlow, and crashes there
        # under MirroredStrategy; JAX has no other way.
        jit_compile=False if device.kind == "cpu" and device.backend == "tensorflow" else "auto",
    )
    if not model.optimizer.built:  # Keras has put a loss scale around it, for float16
        model.optimizer.build(model.trainable_variables)


def _build_optimizer(model: keras.Model, run: RunContext, phase: Phase, rates):
    plan, schedule = run.plan, phase.schedule
    if rates is None and schedule is not None and schedule.per_step:
        rates = rates_per_step(schedule, epochs=phase.epochs, steps_per_epoch=run.num_steps)
    lr_factors = None
    if plan.backbone_lr_factor is not None:
        depths = depth_of(run.classifier)
        lr_factors = {
            path: plan.backbone_lr_factor ** (1 - depth) for path, depth in depths.items()
        }
    return build_optimizer(
        plan.optimizer,
        phase.first_lr if rates is None else TableRate(rates),
        model,
        weight_decay=plan.weight_decay,
        ema=plan.ema,
        lr_factors=lr_factors,
    )
