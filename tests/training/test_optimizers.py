"""Every gradient here is 1, so that each step has a literal answer, on any number of replicas."""

import keras
import numpy as np
import pytest

from flowerkit.schedules import CosineWarmup, OfEpochAndRate
from flowerkit.training.optimizers import SGD, averaged_weights, build_optimizer

LAYERS = ("body_dense", "head_dense")


def mean_output(y_true, y_pred):
    return y_pred[:, 0]


def build_model(accelerator, name="sgd", rate=0.1, **options):
    """Two layers side by side, one of them in a nested model; every weight starts at 1."""
    with accelerator.scope():
        inputs = keras.Input((2,))
        first, second = (
            keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones", name=layer)
            for layer in LAYERS
        )
        inner = keras.Input((2,))
        body = keras.Model(inner, first(inner), name="body")
        outputs = keras.layers.Add()([body(inputs), second(inputs)])
        model = keras.Model(inputs, outputs)
        optimizer = build_optimizer(name, model, **options)
        optimizer.learning_rate = rate
        if name == "sgd":
            optimizer.momentum = 0.0  # so that each step is the rate
        model.compile(optimizer, loss=mean_output, jit_compile=False)
    return model


def take_steps(model, num_steps, *callbacks):
    ones = np.ones((16 * num_steps, 2), "float32")
    model.fit(ones, ones[:, 0], batch_size=16, verbose=0, shuffle=False, callbacks=[*callbacks])


def weights_of(model):
    """Variable path -> its values, which must be alike, as one number."""
    values = {one.path: keras.ops.convert_to_numpy(one) for one in model.trainable_variables}
    assert all(np.ptp(value) < 1e-6 for value in values.values())
    return {path: float(value.ravel()[0]) for path, value in values.items()}


def approx(kernels, biases):
    """`kernels` and `biases` of the two layers, as `weights_of` gives them."""
    expected = {f"{layer}/kernel": value for layer, value in zip(LAYERS, kernels, strict=True)}
    expected |= {f"{layer}/bias": value for layer, value in zip(LAYERS, biases, strict=True)}
    return pytest.approx(expected, abs=1e-5)


def test_decay_takes_from_kernels_and_leaves_biases(accelerator):
    model = build_model(accelerator, weight_decay=0.5)
    take_steps(model, 1)
    assert weights_of(model) == approx([0.85, 0.85], [0.9, 0.9])


@pytest.mark.backends
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_factor_of_a_tenth_moves_a_tenth_as_far_and_0_not_at_all(accelerator, name):
    factors = {"body_dense/kernel": 0.1, "body_dense/bias": 0.0}
    options = {"lr_factor": lambda variable: factors.get(variable.path, 1.0)}
    decay = {"weight_decay": 0.5} if name == "adamw" else {}
    model = build_model(accelerator, name, **options, **decay)
    take_steps(model, 1)
    kernels = [0.94, 0.85] if decay else [0.99, 0.9]  # Keras decays by the rate itself
    assert weights_of(model) == approx(kernels, [1.0, 0.9])


@pytest.mark.backends
def test_averages_are_kept_beside_the_raw_weights(accelerator, tmp_path):
    seen = []

    class Evaluator(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with averaged_weights(self.model):
                seen.append(weights_of(self.model))
                self.model.save_weights(tmp_path / "averaged.weights.h5")

    model = build_model(accelerator, ema=0.5)
    take_steps(model, 2, Evaluator())
    assert seen == [approx([0.85, 0.85], [0.85, 0.85])]  # of 0.9 and 0.8
    raw = model.get_weights()
    # Keras's own finalize_variable_values would have left the averages here.
    assert weights_of(model) == approx([0.8, 0.8], [0.8, 0.8])
    with averaged_weights(model):
        predicted = model.predict(np.ones((16, 2), "float32"), verbose=0)
    assert predicted == pytest.approx(6 * 0.85)
    for before, after in zip(raw, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    take_steps(model, 1, Evaluator())  # and training goes on from the raw ones
    assert weights_of(model) == approx([0.7, 0.7], [0.7, 0.7])
    assert seen[1] == approx([0.775, 0.775], [0.775, 0.775])
    other = build_model(accelerator, ema=0.5)
    other.load_weights(tmp_path / "averaged.weights.h5")
    assert weights_of(other) == approx([0.775, 0.775], [0.775, 0.775])


@pytest.mark.backends
@pytest.mark.replicas
def test_every_replica_gets_the_averages_and_the_raw_weights_back(accelerator):
    model = build_model(accelerator, ema=0.5)
    take_steps(model, 2)

    def copies():
        kernel = model.trainable_variables[0].value
        parts = getattr(kernel, "values", None) or [
            one.data for one in getattr(kernel, "addressable_shards", [])
        ]
        return [float(np.ravel(part)[0]) for part in parts or [kernel]]

    with averaged_weights(model):
        assert copies() == pytest.approx([0.85] * accelerator.replicas)
    assert copies() == pytest.approx([0.8] * accelerator.replicas)


def test_the_raw_weights_come_back_after_an_error(accelerator):
    model = build_model(accelerator, ema=0.5)
    take_steps(model, 2)
    with pytest.raises(RuntimeError, match="full"), averaged_weights(model):
        raise RuntimeError("the disk is full")
    assert weights_of(model) == approx([0.8, 0.8], [0.8, 0.8])


def test_an_optimizer_that_is_made_of_its_configuration_has_the_same_rates(accelerator):
    optimizer = build_model(accelerator, lr_factor=lambda variable: 0.5).optimizer
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert again.lr_factors == optimizer.lr_factors == (0.5,) * 4


@pytest.mark.backends
def test_weights_saved_with_the_optimizer_continue_as_if_nothing_had_happened(
    accelerator, tmp_path
):
    options = {"weight_decay": 0.5, "ema": 0.5, "lr_factor": lambda variable: 0.1}
    model, again = build_model(accelerator, **options), build_model(accelerator, **options)
    assert isinstance(again.optimizer, SGD)
    take_steps(model, 2)
    model.save_weights(tmp_path / "last.weights.h5")
    again.load_weights(tmp_path / "last.weights.h5")
    for trained in (model, again):
        take_steps(trained, 2)
    assert weights_of(again) == pytest.approx(weights_of(model), abs=1e-6)


def test_biases_norms_and_vectors_do_not_decay():
    class Gain(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1],), name="kernel")

        def call(self, inputs):
            return inputs * self.kernel

    inner = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, name="bias_conv", use_bias=False)(inner)
    x = Gain(name="gain")(keras.layers.BatchNormalization(name="batch")(x))
    body = keras.Model(inner, x, name="body")
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Reshape((36, 4))(body(inputs))
    x = keras.layers.LayerNormalization(name="layer")(x)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(x))
    optimizer = build_optimizer("sgd", model, weight_decay=0.5)
    decays = [one for one in model.trainable_variables if optimizer._use_weight_decay(one)]
    kernels = [(3, 3, 4, 4)] + [(4, 2, 3)] * 3 + [(2, 3, 4), (4, 1)]
    assert [tuple(one.shape) for one in decays] == kernels


def test_the_cosine_is_kerass_where_keras_has_one():
    ours = CosineWarmup(0.1, 0.5, 0.05, rampup_epochs=3, epochs=10)
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.1, decay_steps=70, alpha=0.1, warmup_target=0.5, warmup_steps=30
    )
    theirs = [float(keras.ops.convert_to_numpy(keras_own(step))) for step in range(120)]
    assert [ours(step / 10) for step in range(120)] == pytest.approx(theirs, abs=1e-6)


def test_a_step_function_sets_the_rates_that_kerass_scheduler_sets(accelerator):
    def decay_from_two(epoch, lr):
        return lr if epoch < 2 else lr * 0.7 - 0.001 * epoch

    model, rates = build_model(accelerator, rate=0.5), []
    scheduler = keras.callbacks.LearningRateScheduler(decay_from_two)
    scheduler.set_model(model)
    for epoch in range(6):
        scheduler.on_epoch_begin(epoch)
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    ours = OfEpochAndRate(decay_from_two, 0.5)
    assert [ours(epoch) for epoch in range(6)] == pytest.approx(rates, rel=1e-5)
