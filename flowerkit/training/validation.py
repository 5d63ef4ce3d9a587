"""Which weights are scored and kept: raw or averaged, each with statistics of its own.

A norm's running statistics describe the weights of the last steps. Averaged weights are others, and
under a high rate even the raw ones have moved on, so both are validated with statistics computed anew
from training images (PreciseBN: Wu and Johnson 2021, arXiv:2105.07576; SWA: Izmailov et al. 2018,
arXiv:1803.05407). The better of the two is kept.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import hosts
from flowerkit.models import find_chain, prepare_outputs, stream_outputs, walk_layers
from flowerkit.prediction import Predictions
from flowerkit.training.callbacks import StopFlag
from flowerkit.training.optimizers import averaged_weights, copies_of
from flowerkit.training.plan import MONITORS
from flowerkit.training.step import FEWEST_AVERAGED, RunContext, TrainStep

# Of a split without images there are none.
SCORES = ("val_loss", "val_accuracy", "val_f1")


class NormStatistics:
    """The running statistics of those BatchNormalization layers of `model` that learn.

    `model` takes images or features; `batches()` gives arrays of them, alike in length, as validation
    sees them. Frozen norms keep theirs.
    """

    def __init__(self, model: keras.Model, batches: Callable[[], Iterable[np.ndarray]]):
        parts = find_chain(model)
        self.norms = [norm for part in parts for norm in _find_learning(part)]
        self.batches = batches
        # The same layers, compiled apart: its norms see each batch as in training, dropout is off.
        self.probes = [
            keras.Model(part.inputs[0], part.outputs[0], name=part.name)
            if _find_learning(part)
            else part
            for part in parts
        ]

    def prepare(self, global_batch: int, dtype: str) -> None:
        """Begin to compile what `recompute` runs on batches of so many images or features, on JAX."""
        if self.norms:
            with _as_in_training(self.norms):
                prepare_outputs(
                    self.probes, global_batch=global_batch, dtype=dtype, changing=self._variables()
                )

    def recompute(self) -> None:
        """Set mean and variance to those of all batches under the present weights."""
        if not self.norms:
            return
        with _as_in_training(self.norms):
            outputs = stream_outputs(self.probes, self.batches(), changing=self._variables())
            found = [self._read() for _ in outputs]
        for norm, moments in zip(self.norms, zip(*found, strict=True), strict=True):
            mean, square = np.mean(moments, axis=0, dtype="float64")
            norm.moving_mean.assign(mean.astype("float32"))
            norm.moving_variance.assign(np.maximum(square - mean**2, 0).astype("float32"))

    def _read(self) -> list[np.ndarray]:
        """(mean, mean of squares) of the last batch for each norm, over all replicas: (2, channels)."""
        found = []
        for norm in self.norms:
            means, variances = (
                np.asarray([keras.ops.convert_to_numpy(copy) for copy in copies_of(variable)])
                for variable in (norm.moving_mean, norm.moving_variance)
            )
            found.append(np.stack([means.mean(axis=0), (variances + means**2).mean(axis=0)]))
        return found

    def get(self) -> list[np.ndarray]:
        """The present statistics, to be put back by `set`."""
        return [keras.ops.convert_to_numpy(v).copy() for v in self._variables()]

    def set(self, values: list[np.ndarray]) -> None:
        """Put statistics back that `get` gave."""
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _variables(self) -> list:
        return [v for norm in self.norms for v in (norm.moving_mean, norm.moving_variance)]


def statistics_of(step: TrainStep) -> NormStatistics:
    """The statistics of the norms that learn in a phase, made once, with its layers trainable."""
    if step.statistics is None:
        step.statistics = NormStatistics(step.judged, step.statistics_batches)
    return step.statistics


def _find_learning(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = (layer for _, layer in walk_layers(model) if layer.trainable)
    return [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]


@contextmanager
def _as_in_training(norms: list[keras.layers.BatchNormalization]) -> Iterator[None]:
    """What is traced inside calls the norms as in training, also in a user's layer, and keeps of the
    statistics those of the last batch alone."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        call = functools.partial(type(norm).call, norm)
        vars(norm)["call"] = lambda x, call=call, **given: call(x, **given | {"training": True})
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            del vars(norm)["call"]
            norm.momentum = momentum


class Validation(keras.callbacks.Callback):
    """Score the weights on val at an epoch's end and add val_* to its logs.

    With `ema` both the raw and the averaged weights are scored, the latter as soon as the phase has had
    enough steps to average over; `averaged` in the logs is 1 where the averaged ones were better by the
    run's monitor, or where there are no images to score them on. `holding_better` is a context in which
    the model has the better weights with their statistics.
    """

    def __init__(self, run: RunContext, step: TrainStep, stop: StopFlag):
        super().__init__()
        self.step, self.stop = step, stop
        self.ema = run.plan.ema
        self.monitor = run.plan.monitor if run.plan.monitor.startswith("val_") else "val_loss"
        self.statistics = statistics_of(step)
        self.predictions: Predictions | None = None
        self.averaged_is_better = False
        self.seconds = self.predict_seconds = 0.0

    def on_epoch_end(self, epoch, logs=None):
        self.predictions = None
        if self.stop.cut_short:
            return
        start = hosts.now()
        averaged = self._score(averaged_weights(self.model)) if self._has_averages() else None
        self.averaged_statistics = self.statistics.get()
        kept, scores = self._score(nullcontext())  # last: training continues with these
        self.seconds = hosts.now() - start
        self.averaged_is_better = averaged is not None and self._is_better(averaged[1], scores)
        if self.averaged_is_better:
            kept, scores = averaged
        if not np.isfinite(kept.probabilities).all():
            reason = f"the validation predictions of epoch {epoch + 1} are not numbers"
            self.stop.request(reason, failed=True)
            return
        self.predictions = kept
        logs |= scores | {"averaged": float(self.averaged_is_better)}

    def _has_averages(self) -> bool:
        """Whether the averages have forgotten the weights that the phase began with."""
        if self.ema is None:
            return False
        steps = float(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        return steps * (1 - self.ema) > FEWEST_AVERAGED - 1e-6  # 20 * (1 - 0.9) is not quite 2

    def _score(self, holding) -> tuple[Predictions, dict[str, float]]:
        with holding:
            self.statistics.recompute()
            run = self.step.run
            if not len(run.val):
                nothing = np.empty((0, run.num_classes), "float32")
                empty = Predictions(run.val.ids, nothing, run.val.labels)
                return empty, dict.fromkeys(SCORES, math.nan)
            start = hosts.now()
            predictions = self.step.predict_val()
            self.predict_seconds = hosts.now() - start
        if not np.isfinite(predictions.probabilities).all():
            return predictions, {self.monitor: math.nan}
        return predictions, predictions.score()

    def _is_better(self, scores: dict[str, float], others: dict[str, float]) -> bool:
        if not len(self.step.run.val):
            return True
        sign = 1 if MONITORS[self.monitor] == "max" else -1
        ours, theirs = sign * scores[self.monitor], sign * others[self.monitor]
        return math.isfinite(ours) and not theirs >= ours

    @contextmanager
    def holding_better(self) -> Iterator[None]:
        """The model with the better weights and their statistics, which then change back."""
        if not self.averaged_is_better:
            yield
            return
        raw = self.statistics.get()
        try:
            with averaged_weights(self.model):
                self.statistics.set(self.averaged_statistics)
                yield
        finally:
            self.statistics.set(raw)


class ModelCheckpoint(keras.callbacks.Callback):
    """Write an epoch's files, and after them its row into history.csv, with which it counts.

    They are the classifier's weights with their validation predictions, where they are the best, and
    the training model's with its optimizer, so that a resumed run continues exactly.
    """

    def __init__(self, run: RunContext, validation: Validation):
        super().__init__()
        self.folder, self.classifier, self.history = run.folder, run.classifier, run.history
        self.validation = validation

    def on_epoch_end(self, epoch, logs=None):
        row, predictions = self.history.last, self.validation.predictions
        if row is None or row["epoch"] != epoch + 1:
            return  # an epoch that was cut short
        if predictions is None:  # they are not numbers
            self.history.lost.add(row["epoch"])
        if self.history.last_is_best:
            with self.validation.holding_better():
                self.folder.save_epoch("best", epoch + 1, self.classifier.save_weights)
            self.folder.save_epoch("predictions", epoch + 1, predictions.save)
        if row["steps"] == self.params["steps"]:  # a part of an epoch is no state to resume from
            self.folder.save_epoch("last", epoch + 1, self.model.save_weights)
        self.history.save()
        self.folder.prune(len(self.history))


def load_state(model: keras.Model, path: Path) -> None:
    """Load weights and optimizer, also where only one of file and model has a loss scale (float16)."""
    import h5py

    with h5py.File(path) as file:
        was_scaled = "inner_optimizer" in file.get("optimizer", ())
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    if was_scaled and inner is None:
        model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.optimizer.build(model.trainable_variables)
    elif inner is not None and not was_scaled:
        model.optimizer = inner
    try:
        model.load_weights(path)
    finally:
        model.optimizer = optimizer
