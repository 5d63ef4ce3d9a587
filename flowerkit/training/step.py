"""A classifier made ready to train: which layers learn, how fast, on which loss. Needs no TensorFlow."""

import keras
import numpy as np

from flowerkit.accelerator import Accelerator
from flowerkit.data.tfrecords import FlowerData
from flowerkit.models import (
    build_classifier,
    choose_trainable,
    depth_of,
    freeze_backbone,
    split_classifier,
)
from flowerkit.pipeline.augment_layer import Augment
from flowerkit.pipeline.augment_params import PARAMS
from flowerkit.schedules import OneCycle, momenta_per_step, rates_per_step
from flowerkit.training.losses import build_loss, build_metrics, class_weights_for
from flowerkit.training.optimizers import TableRate, build_optimizer
from flowerkit.training.phases import Phase
from flowerkit.training.plan import TrainingPlan


def build_planned(plan: TrainingPlan, data: FlowerData, accelerator: Accelerator) -> keras.Model:
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


def compile_for_training(
    classifier: keras.Model,
    plan: TrainingPlan,
    accelerator: Accelerator,
    phase: Phase | None = None,
    *,
    num_steps: int = 1,
    labels: np.ndarray | None = None,
) -> keras.Model:
    """A model of training batches around `classifier`, whose weights it shares.

    It takes `pipeline.train_batches`, or in a phase on features `feature_batches`: then it is of the
    head alone. What is done to training images alone is in here, and so in no file. `phase` (None: the
    plan's last, at its first rate) says which layers learn and how fast in its `num_steps` an epoch;
    `labels` (n,) are counted for balanced class weights. Call it within the accelerator's scope.
    """
    if phase.is_frozen if phase else not plan.epochs:
        freeze_backbone(classifier)
    else:
        choose_trainable(classifier, plan.unfreeze_from, freeze_norms=plan.freeze_norms)
    if keras.backend.backend() == "jax":
        # Keras compiles predict for the split into trainable and other weights, which has changed.
        classifier.predict_function = None
    on_features = phase is not None and phase.views > 0
    one_hot = plan.augmentation().mixes and not on_features
    model = _wrap_head(classifier) if on_features else _wrap(classifier, plan)
    # XLA takes minutes to compile a convolution net for a CPU under TensorFlow, and crashes there
    # under MirroredStrategy; JAX has no other way.
    on_cpu = accelerator.kind == "cpu" and accelerator.backend == "tensorflow"
    model.compile(
        optimizer=_build_optimizer(model, classifier, plan, accelerator, phase, num_steps),
        loss=_build_loss(plan, classifier.output_shape[-1], one_hot, labels),
        # Metric objects, like built slots, do not cost a second trace of the training step.
        metrics=build_metrics(one_hot=one_hot),
        jit_compile=False if on_cpu else "auto",
        steps_per_execution=plan.steps_per_execution,
    )
    return model


def _wrap(classifier, plan: TrainingPlan) -> keras.Model:
    """(images, params) -> augmented images -> the classifier's probabilities."""
    pixels = keras.Input(classifier.input_shape[1:], dtype="uint8", name="training_pixels")
    params = keras.Input((len(PARAMS),), dtype="float32", name="params")
    changed = Augment(plan.augmentation(), name="augment")((pixels, params))
    return keras.Model((pixels, params), classifier(changed), name="training")


def _wrap_head(classifier) -> keras.Model:
    head = split_classifier(classifier)[1]
    features = keras.Input(head.input_shape[1:], dtype="float32", name="features")
    return keras.Model(features, head(features), name="training")


def _build_loss(plan: TrainingPlan, num_classes: int, one_hot: bool, labels) -> keras.losses.Loss:
    balanced = plan.class_weights is not None and labels is not None
    return build_loss(
        num_classes,
        label_smoothing=plan.label_smoothing,
        focal_gamma=plan.focal_gamma,
        class_weights=class_weights_for(labels, num_classes) if balanced else None,
        one_hot=one_hot,
    )


def _build_optimizer(model, classifier, plan, accelerator, phase, num_steps):
    global_batch = plan.per_replica_batch * accelerator.replicas
    schedule = phase.schedule if phase else plan.schedule_for(global_batch=global_batch)
    rate = phase.first_lr if phase else schedule(0)
    momentum = plan.momentum
    if phase and schedule and schedule.per_step:
        length = {"epochs": phase.epochs, "steps_per_epoch": num_steps}
        rate = TableRate(rates_per_step(schedule, **length))
        if isinstance(schedule, OneCycle):
            momentum = TableRate(momenta_per_step(schedule, **length))
    multipliers = None
    if plan.backbone_lr_factor is not None:
        depths = depth_of(classifier)
        multipliers = {
            path: plan.backbone_lr_factor ** (1 - depth) for path, depth in depths.items()
        }
    return build_optimizer(
        plan.optimizer,
        rate,
        model,
        weight_decay=plan.weight_decay,
        momentum=momentum,
        clip_norm=plan.clip_norm,
        ema=plan.ema,
        multipliers=multipliers,
    )
