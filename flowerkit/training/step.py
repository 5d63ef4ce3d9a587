"""What a batch is, and what one training step does with it: the model and its batches side by side."""

import abc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, Program, batch_spec, hosts
from flowerkit.console import Progress
from flowerkit.data import FlowerData, Split
from flowerkit.models import (
    AccumulatingModel,
    after_resizing,
    build_classifier,
    check_network,
    choose_trainable,
    copy_state,
    depth_of,
    find_chain,
    forward_of,
    freeze_backbone,
    prepare_outputs,
    random_layers,
    split_classifier,
)
from flowerkit.pipeline import (
    PARAMS,
    Augment,
    Batches,
    epoch_permutation,
    feature_batches,
    steps_per_epoch,
    train_batches,
)
from flowerkit.prediction import Features, Predictions, compute_features, predict, predict_features
from flowerkit.schedules import Schedule
from flowerkit.training.callbacks import StepHooks
from flowerkit.training.history import History
from flowerkit.training.losses import build_loss, class_weights_for
from flowerkit.training.optimizers import build_optimizer
from flowerkit.training.phases import Clock, Phase, plan_phases
from flowerkit.training.plan import TrainingPlan, settle
from flowerkit.training.run_folder import Fitted, RunFolder, find_goes_on

_log = logging.getLogger("flowerkit")

# Averaged weights are worth scoring after this many times the steps that they average over.
FEWEST_AVERAGED = 2
STATISTICS_IMAGES = 512  # of which the statistics of norms are computed before validation


@dataclass(eq=False)
class RunContext:
    """A run, as far as it has come: what was asked for, and what all its phases share.

    `train` and `val` are the splits, `num_steps` show all images once. A range test has neither `val`
    nor folder nor history. `chosen` are the fields of the plan that were decided since the last
    `report`, with reasons; `fresh_head` the weights of the head before it learned; `is_small`: the
    classifier is one for the smaller images of the plan's small_epochs; `steps` those that
    `compile_ahead` has made, by whether they are frozen, which `TrainStep.for_phase` takes out.
    """

    data: FlowerData
    plan: TrainingPlan
    accelerator: Accelerator
    folder: RunFolder | None = None
    schedule: Schedule | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    progress: Progress | None = None
    # A copy made by `dataclasses.replace` begins anew:
    chosen: dict[str, str] = field(init=False, default_factory=dict)
    fitted: Fitted = field(init=False, default_factory=Fitted)
    clock: Clock = field(init=False, default_factory=Clock)
    history: History | None = field(init=False, default=None)
    classifier: keras.Model | None = field(init=False, default=None)
    is_small: bool = field(init=False, default=False)
    fresh_head: Sequence[np.ndarray] = field(init=False, default=())
    steps: "dict[bool, TrainStep]" = field(init=False, default_factory=dict)
    train: Split | None = field(init=False, default=None)
    val: Split | None = field(init=False, default=None)
    num_steps: int = field(init=False, default=0)
    first_step_seconds: float | None = field(init=False, default=None)

    @property
    def global_batch(self) -> int:
        """The images of a step over all replicas."""
        return self.plan.batch * self.accelerator.replicas

    @property
    def part_batch(self) -> int:
        """The images of a step that the network has at a time, over all replicas."""
        return self.global_batch // self.plan.accumulate

    @property
    def num_classes(self) -> int:
        """The width of the classifier's output."""
        return self.classifier.output_shape[-1]

    @property
    def learns_head(self) -> bool:
        """Whether the next epoch trains the head alone."""
        return self.phase_number == 1 and self.plan.freeze_epochs > len(self.history)

    @property
    def phase_number(self) -> int:
        """The number of the phase that goes on or begins with the next epoch.

        A phase that has ended is left as soon as the time is fitted to the one after it.
        """
        rest, number = self.fitted.rest, 1
        if self.history:
            number = int(self.history.last["phase"])
            if rest is not None and rest.first_epoch <= len(self.history):
                number = max(number, rest.number)
        return number

    @property
    def begins_small(self) -> bool:
        """Whether the next epoch is one of smaller images."""
        return self.plan.has_small and self.phases()[self.phase_number - 1].is_small

    def settle(self) -> None:
        """Decide all that the plan leaves "auto" and nothing need be measured for.

        Raises what `check_network` raises.
        """
        size = None if self.plan.input_size == "auto" else self.plan.input_size
        check_network(self.plan.backbone, self.plan.weights, size)
        self.plan, self.chosen = settle(
            self.plan,
            num_train=self.data.counts["train"],
            stored_px=self.data.image_size,
            kind=self.accelerator.kind,
            replicas=self.accelerator.replicas,
            is_timed=self.plan.max_minutes is not None,
            before=find_goes_on(self.plan, self.data.class_names),
        )

    def build(self, *, is_small: bool = False) -> None:
        """The classifier, of smaller images or of those of the plan's input_size."""
        start = hosts.now()
        plan, self.is_small = self.plan, is_small
        if is_small:
            plan = replace(plan, input_size=plan.small_px(self.data.image_size))
        self.classifier = build_model(plan, self.data, self.accelerator)
        self.clock.build_seconds = hosts.now() - start
        self.fresh_head = split_classifier(self.classifier)[1].get_weights()
        if self.train is None:  # of which damaged records may have been left out
            self.num_steps = steps_per_epoch(self.data.counts["train"], self.global_batch)

    @property
    def smaller_pixels(self) -> float:
        """How many pixels the smaller images have, of those of the others."""
        px = self.data.image_size
        return (self.plan.small_px(px) / (self.plan.input_size or px)) ** 2

    def choose(self, name: str, value, reason: str) -> None:
        """Decide a field of the plan."""
        self.plan = replace(self.plan, **{name: value})
        self.chosen[name] = reason

    def report(self) -> None:
        """Log a line for each field that was decided."""
        for name, reason in self.chosen.items():
            _log.info(f"{name}={reason}")
        self.fitted = replace(self.fitted, reasons=self.fitted.reasons | self.chosen)
        self.chosen = {}

    def save_plan(self, phase: Phase | None = None) -> None:
        """Report, and write plan.json with what is left of the present phase."""
        self.report()
        self.fitted = self.fitted.with_rest(phase)
        self.folder.write_plan(self.plan, self.fitted)

    def phases(self) -> list[Phase]:
        """The phases of the plan, see `plan_phases`."""
        return plan_phases(
            self.plan,
            global_batch=self.global_batch,
            steps_an_epoch=self.num_steps,
            schedule=self.schedule,
        )


def build_model(plan: TrainingPlan, data: FlowerData, accelerator: Accelerator) -> keras.Model:
    """The classifier of `plan` for `data`, its fresh weights drawn from the plan's seed.

    Where the plan goes on from a run with the same head and classes, it is that run's classifier.
    """
    keras.utils.set_random_seed(plan.seed)
    with accelerator.scope():
        classifier = build_classifier(
            data.num_classes,
            image_size=data.image_size,
            input_size=plan.input_size,
            backbone=plan.backbone,
            weights=plan.weights,
            head=plan.head,
            dropout=plan.dropout,
            binary=plan.binary,
        )
        if find_goes_on(plan, data.class_names):
            _, head = split_classifier(classifier)
            copy_state(split_classifier(RunFolder(plan.weights).model())[1], head)
            _log.info(f"backbone and head go on from {plan.weights}")
    return classifier


class TrainStep(abc.ABC):
    """The compiled model of a phase, the batches that it takes and the predictions that judge it.

    `model` shares the classifier's weights; what is done to training images alone is in it, and so in
    no file. `train` runs it; it may be called several times, and compiles once. Build it by
    `for_phase`, within the accelerator's scope.
    """

    model: keras.Model
    judged: keras.Model  # what of the classifier learns and predicts here: all of it, or its head
    statistics: Any = None  # of its norms, see `validation.statistics_of`
    program: Program | None = None  # on JAX
    name: str  # in the log

    def __init__(self, run: RunContext):
        self.run, self.hooks = run, StepHooks()

    @classmethod
    def for_phase(cls, run: RunContext, is_frozen: bool) -> "TrainStep":
        """On features where the backbone is frozen, else on pixels.

        On JAX it is traced here and compiled in a thread, if `compile_ahead` has not done so. Raises
        ValueError for class weights where a class has no image.
        """
        if is_frozen in run.steps:
            _choose_layers(run, is_frozen)  # others are chosen since it was made
            return run.steps.pop(is_frozen)
        step = cls.build(run, is_frozen)
        if keras.backend.backend() == "jax":
            step._compile_with_jax()
        return step

    @staticmethod
    def build(run: RunContext, is_frozen: bool) -> "TrainStep":
        """As `for_phase`, and nothing is traced or compiled yet."""
        _choose_layers(run, is_frozen)
        step = _FeatureStep(run) if is_frozen else _PixelStep(run)
        _compile(step.model, run)
        return step

    def for_jax(self) -> tuple[Callable, tuple, tuple]:
        """(function, state, data): what JAX is to trace, called with the state and a batch.

        `state` are the present values of the variables, in four lists, `data` what is known of a batch.
        """
        model, batch = self.model, self.run.global_batch
        inputs = [batch_spec((batch, *each.shape[1:]), each.dtype) for each in model.inputs]
        labels = batch_spec((batch, self.run.num_classes), "float32")
        data = tuple(inputs) if len(inputs) > 1 else inputs[0], labels
        model._symbolic_build(data_batch=data)  # as `fit` does: metrics have their variables
        if hasattr(model, "_record_training_state_sharding_spec"):  # Keras 3.10
            model._record_training_state_sharding_spec()
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )

        def train_step(state, data):
            return model.train_step(state, data)

        return train_step, tuple([variable.value for variable in group] for group in groups), data

    def _compile_with_jax(self) -> None:
        """Trace the training step and begin to compile it; what is compiled is what `fit` runs."""
        function, state, data = self.for_jax()
        divided = data[1].sharding and (None, tuple([v.sharding for v in each] for each in state))
        self.program = program = Program(
            self.name, function, state, data, donate=(0,), out_shardings=divided or None
        )
        # Keras makes none where there is one. The lists are tuples after some optimizers.
        self.model.train_function = lambda state, batches: program(
            tuple(map(list, state)), next(batches)
        )

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
    def train_inputs(self) -> Any:
        """The training images, or their features, as `judged` takes them, by rows of the split."""

    def find_rows(self, number: int) -> np.ndarray:
        """The rows of the training split in batch `number`, counted from 0 over all epochs."""
        size, num_images = self.run.global_batch, len(self.run.train)
        epoch, step = divmod(number, self.run.num_steps)
        order = epoch_permutation(num_images, seed=self.run.plan.seed, epoch=epoch)
        return order[step * size : (step + 1) * size]

    def statistics_batches(self) -> Iterator[np.ndarray]:
        """Some hundred of `train_inputs`, the same at each epoch and in a resumed run.

        Of whole batches they are this host's own.
        """
        run, num_images = self.run, min(STATISTICS_IMAGES, len(self.run.train))
        own = hosts.own_rows(run.part_batch)
        for batch in range(max(1, num_images // run.global_batch)):
            for part in np.split(self.find_rows(batch), run.plan.accumulate):
                yield np.asarray(self.train_inputs[part[own]])


class _PixelStep(TrainStep):
    """Batches are ((images uint8, augmentation parameters), labels); the whole classifier learns."""

    name = "the network's step"

    def __init__(self, run: RunContext):
        super().__init__(run)
        self.judged, self.augmentation = run.classifier, run.plan.augmentation()
        pixels = keras.Input(run.classifier.input_shape[1:], dtype="uint8", name="training_pixels")
        params = keras.Input((len(PARAMS),), dtype="float32", name="augmentation_params")
        # Augmented straight to the size that the backbone sees: one resampling, not two.
        classifier = after_resizing(run.classifier)
        self.size = classifier.input_shape[1]
        changed = Augment(self.augmentation, self.size, name="augment")((pixels, params))
        build, options = keras.Model, {}
        if run.plan.accumulate > 1:
            build = AccumulatingModel
            options = {"parts": run.plan.accumulate, "replicas": run.accelerator.replicas}
        self.model = build((pixels, params), classifier(changed), name="training", **options)

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
        return predict(self.run.classifier, self.run.val, global_batch=self.run.part_batch)

    @property
    def train_inputs(self) -> Any:
        return self.run.train.images


class _FeatureStep(TrainStep):
    """Batches are (features float32, labels); the head alone learns, and val is judged by features."""

    name = "the head's step"

    def __init__(self, run: RunContext):
        super().__init__(run)
        self.body, self.judged = split_classifier(run.classifier)
        if idle := random_layers(self.body):
            shown = ", ".join(idle[:3]) + " ..." * (len(idle) > 3)
            _log.info(
                f"the head learns from features computed once: dropout and augmentation inside the "
                f"backbone ({shown}) act only when the network learns (--freeze-epochs 0: at once)"
            )
        inputs = keras.Input(self.judged.input_shape[1:], dtype="float32", name="features")
        self.model = keras.Model(inputs, self.judged(inputs), name="training")

    # Computed when first needed: a finished phase of a resumed run needs none.
    @cached_property
    def views(self) -> list[np.ndarray]:
        """The features of the training images: as they are and, with freeze_flip, mirrored."""
        views = [self._compute(self.run.train, "train").array]
        if self.run.plan.num_views > 1:
            views.append(self._compute(self.run.train, "train, mirrored", mirrored=True).array)
        return views

    @property
    def train_inputs(self) -> np.ndarray:
        return self.views[0]

    @cached_property
    def val_features(self) -> Features:
        """The features of the validation images."""
        return self._compute(self.run.val, "val")

    def _compute(self, split: Split, name: str, *, mirrored: bool = False) -> Features:
        return compute_features(
            self.body,
            split,
            global_batch=self.run.part_batch,
            name=name,
            mirrored=mirrored,
            progress=self.run.progress,
        )

    def batches(self, first_step: int) -> Batches:
        return feature_batches(
            self.views,
            self.run.train.labels,
            global_batch=self.run.global_batch,
            seed=self.run.plan.seed,
            num_classes=self.run.num_classes,
            first_step=first_step,
        )

    def predict_val(self) -> Predictions:
        return predict_features(self.judged, self.val_features, global_batch=self.run.part_batch)


def compile_ahead(run: RunContext, *, phases: Sequence[bool]) -> None:
    """Begin to compile what a run is known to need: on JAX its predictions and the steps of `phases`.

    A phase is True where the backbone is frozen. `run` need not have its splits.
    """
    if keras.backend.backend() != "jax":
        return
    if True in phases:  # the features come first
        prepare_outputs(find_chain(run.classifier), global_batch=run.part_batch)
    if run.plan.class_weights != "balanced":  # which are constants of the step, and need the labels
        for is_frozen in phases:
            run.steps[is_frozen] = TrainStep.for_phase(run, is_frozen)
    prepare_outputs(find_chain(run.classifier), global_batch=run.part_batch)


def list_programs(
    plan: TrainingPlan, data: FlowerData, accelerator: Accelerator
) -> Iterator[tuple[str, Callable, Any, Any, bool]]:
    """What a run of `plan`, without "auto", computes on JAX: its steps, body and head.

    (name, function, kept, batch, donates) of each: `function(kept, batch)`, with weights, and in a step
    the optimizer's state, in `kept`, whose memory it takes over if it `donates`. Nothing of the data is
    read but what `data` says.
    """
    run = RunContext(data, plan, accelerator)
    run.train = SimpleNamespace(labels=np.arange(data.num_classes))  # class weights are constants
    for is_small in [True] * plan.has_small + [False]:
        run.build(is_small=is_small)
        part = ", smaller images" * is_small
        learns_head = plan.freeze_epochs and is_small == plan.has_small
        with accelerator.scope():
            for is_frozen in [True] * bool(learns_head) + [False] * bool(plan.epochs):
                step = TrainStep.build(run, is_frozen)
                yield step.name + part, *step.for_jax(), True
            dtype = "uint8"
            for model in find_chain(run.classifier):
                batch = batch_spec((run.part_batch, *model.input_shape[1:]), dtype)
                yield f"predicting, {model.name}{part}", *forward_of(model), batch, False
                dtype = "float32"


def _choose_layers(run: RunContext, is_frozen: bool) -> None:
    if is_frozen:
        freeze_backbone(run.classifier)
    else:
        choose_trainable(run.classifier, run.plan.unfreeze_from, freeze_norms=run.plan.freeze_norms)


def _compile(model: keras.Model, run: RunContext) -> None:
    plan, device = run.plan, run.accelerator
    lr_factor = class_weights = None
    if plan.backbone_lr_factor is not None:
        depth = depth_of(run.classifier)

        def lr_factor(variable: keras.Variable) -> float:
            return plan.backbone_lr_factor ** (1 - depth(variable))

    if plan.class_weights == "balanced":
        class_weights = class_weights_for(run.train.labels, run.num_classes)
    model.compile(
        optimizer=build_optimizer(
            plan.optimizer, model, weight_decay=plan.weight_decay, ema=plan.ema, lr_factor=lr_factor
        ),
        loss=build_loss(label_smoothing=plan.label_smoothing, class_weights=class_weights),
        # A metric object, like built slots, does not cost a second trace of the training step.
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        # XLA takes minutes to compile a convolution net for a CPU under TensorFlow, and crashes there
        # under MirroredStrategy; JAX has no other way.
        jit_compile=False if device.kind == "cpu" and device.backend == "tensorflow" else "auto",
    )
    if not model.optimizer.built:  # Keras has put a loss scale around it, for float16
        model.optimizer.build(model.trainable_variables)
