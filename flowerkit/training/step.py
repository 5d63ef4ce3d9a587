"""What a batch is, and what one training step does with it: the model and its batches side by side."""

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from flowerkit.prediction import Features, Predictions, compute_features, predict, predict_features
from flowerkit.training.callbacks import StepHooks
from flowerkit.training.history import History
from flowerkit.training.losses import build_loss, class_weights_for
from flowerkit.training.optimizers import build_optimizer
from flowerkit.training.phases import Clock
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import RunFolder

Progress = Callable[[str, int, int], None]

# Averaged weights are worth scoring after this many times the steps that they average over.
FEWEST_AVERAGED = 2
STATISTICS_IMAGES = 512  # of which the statistics of norms are computed before validation


@dataclass(frozen=True, eq=False)
class RunContext:
    """What all phases of one run share.

    `global_batch` counts the images of a step over all replicas, `num_steps` the steps that show all
    images once; `history` grows. A range test has neither `val` nor folder nor history. `parts` are the
    classifier's body and head (`models.split_classifier`) where they have been cut already, `fresh_head`
    the weights of the head before it learned.
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
    clock: Clock = field(default_factory=Clock)
    parts: tuple[keras.Model, keras.Model] | None = None
    fresh_head: Sequence[np.ndarray] = ()

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
    no file. `train` runs it; it may be called several times, and compiles once. Build it by
    `for_phase`, within the accelerator's scope.
    """

    model: keras.Model
    hooks: StepHooks

    @staticmethod
    def for_phase(
        run: RunContext, is_frozen: bool, *, progress: Progress | None = None
    ) -> "TrainStep":
        """On features where the backbone is frozen, else on pixels.

        Raises ValueError for class weights where a class has no image.
        """
        if is_frozen:
            freeze_backbone(run.classifier)
        else:
            choose_trainable(
                run.classifier, run.plan.unfreeze_from, freeze_norms=run.plan.freeze_norms
            )
        if keras.backend.backend() == "jax":
            # Keras compiled predict for the split into trainable and other weights, which has changed.
            run.classifier.predict_function = None
        step = _FeatureStep(run, progress) if is_frozen else _PixelStep(run)
        step.hooks = StepHooks()
        _compile(step.model, run)
        return step

    def train(
        self,
        rate: Callable[[int, int], float],
        callbacks: Sequence[keras.callbacks.Callback],
        *,
        steps: int,
        first_step: int = 0,
        first_epoch: int = 0,
        last_epoch: int = 1,
    ) -> None:
        """Train epochs of `steps` steps, from `first_epoch` (from 0) to before `last_epoch`.

        `rate(epoch, done)` is the learning rate of the step after `done` steps of `epoch`. The batches
        are those from `first_step` on, see `batches`.
        """
        with self.hooks.around(rate, callbacks, first_epoch):
            self.model.fit(
                self.batches(first_step).for_keras(),
                epochs=last_epoch,
                initial_epoch=first_epoch,
                callbacks=[self.hooks, *callbacks],
                steps_per_epoch=steps,
                verbose=0,
                shuffle=False,
            )

    @abc.abstractmethod
    def batches(self, first_step: int) -> Batches:
        """Endless batches, as `model` takes them; `num_steps` from a multiple on show all images."""

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

    def batches(self, first_step: int) -> Batches:
        return train_batches(
            self.run.train,
            global_batch=self.run.global_batch,
            seed=self.run.plan.seed,
            augmentation=self.augmentation,
            num_classes=self.run.num_classes,
            size=self.size,
            first_step=first_step,
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
        self.body, self.head = run.parts or split_classifier(run.classifier)
        inputs = keras.Input(self.head.input_shape[1:], dtype="float32", name="features")
        self.model = keras.Model(inputs, self.head(inputs), name="training")

    # Computed when first needed: a finished phase of a resumed run needs none.
    @cached_property
    def train_features(self) -> Features:
        """The features of the training images."""
        return self._compute(self.run.train, "train")

    @cached_property
    def val_features(self) -> Features:
        """The features of the validation images."""
        return self._compute(self.run.val, "val")

    def _compute(self, split: Split, name: str) -> Features:
        return compute_features(
            self.body, split, global_batch=self.run.global_batch, name=name, progress=self.progress
        )

    def batches(self, first_step: int) -> Batches:
        return feature_batches(
            self.train_features.array,
            self.train_features.labels,
            global_batch=self.run.global_batch,
            seed=self.run.plan.seed,
            num_classes=self.run.num_classes,
            first_step=first_step,
        )

    def predict_val(self) -> Predictions:
        return predict_features(self.head, self.val_features, global_batch=self.run.global_batch)

    @property
    def judged(self) -> keras.Model:
        return self.head

    def statistics_batches(self) -> Iterator[np.ndarray]:
        return (self.train_features.array[rows] for rows in self._statistics_rows())


def _compile(model: keras.Model, run: RunContext) -> None:
    plan, device = run.plan, run.accelerator
    balanced = plan.class_weights == "balanced"
    model.compile(
        optimizer=_build_optimizer(model, run),
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


def _build_optimizer(model: keras.Model, run: RunContext) -> keras.Optimizer:
    plan, lr_factors = run.plan, None
    if plan.backbone_lr_factor is not None:
        depths = depth_of(run.classifier)
        lr_factors = {
            path: plan.backbone_lr_factor ** (1 - depth) for path, depth in depths.items()
        }
    return build_optimizer(
        plan.optimizer, model, weight_decay=plan.weight_decay, ema=plan.ema, lr_factors=lr_factors
    )
