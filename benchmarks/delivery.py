"""Batches handed to the replicas as `fit` hands them, and clocked: what both pipelines go through."""

import time


def deliver(dataset, accelerator, step=None):
    """Yield once for every batch that has reached the replicas and, with `step`, been through it.

    `step`, a function or a Keras model, takes what the data set yields, is compiled on the replicas,
    and returns arrays, which are waited for.
    """
    road = _deliver_jax if accelerator.backend == "jax" else _deliver_tensorflow
    return road(dataset, accelerator, step)


def _deliver_tensorflow(dataset, accelerator, step):
    import tensorflow as tf

    strategy = accelerator.strategy
    if strategy:
        dataset = strategy.experimental_distribute_dataset(dataset)

    def call(batch):
        return step(batch) if hasattr(step, "stateless_call") else step(*batch)

    # XLA compiles this in a moment, where a whole network takes it minutes on a CPU; under
    # MirroredStrategy on CPUs it crashes.
    @tf.function(autograph=False, jit_compile=strategy is None)
    def run(*batch):
        return strategy.run(call, (batch,)) if strategy else call(batch)

    for batch in dataset:
        if step:
            run(*batch)  # on a CPU it is through when this returns
        yield


def _deliver_jax(dataset, accelerator, step):
    import jax

    devices = jax.sharding.Mesh(jax.devices(), ("batch",))
    by_rows = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("batch"))
    run = _compile_jax(step, by_rows) if step else None
    for batch in dataset.as_numpy_iterator():
        arrays = jax.device_put(batch, by_rows)
        jax.block_until_ready(run(*arrays) if run else arrays)
        yield


def _compile_jax(step, by_rows):
    """`step`, whose results go where those before them stood, as Keras donates what a step replaces."""
    import jax
    import numpy as np

    is_model, results = hasattr(step, "stateless_call"), None
    # Handed over as Keras's own step is handed them: a variable looked at inside would be a constant.
    values = [one.value for one in step.non_trainable_variables] if is_model else []

    def call(before, values, *batch):
        return step.stateless_call([], values, batch)[0] if is_model else step(*batch)

    compiled = jax.jit(call, donate_argnums=0, keep_unused=True, out_shardings=by_rows)

    def run(*batch):
        nonlocal results
        if results is None:
            made = jax.eval_shape(call, None, values, *batch)
            zeros = jax.tree.map(lambda one: np.zeros(one.shape, one.dtype), made)
            results = jax.device_put(zeros, by_rows)
        results = compiled(results, values, *batch)
        return results

    return run


def clock_epochs(open_delivery, *, steps: int, batch: int, epochs: int, seconds: float) -> dict:
    """Images a second in the first epoch, from before anything is opened, and in those after it.

    The later ones go on until there were `epochs` of them and `seconds` are over.
    """
    start = time.perf_counter()
    delivery = open_delivery()
    for _ in range(steps):
        next(delivery)
    first = time.perf_counter() - start
    start, done = time.perf_counter(), 0
    while done < epochs or time.perf_counter() - start < seconds:
        for _ in range(steps):
            next(delivery)
        done += 1
    steady = (time.perf_counter() - start) / done
    return {
        "first_images_per_second": steps * batch / first,
        "steady_images_per_second": steps * batch / steady,
    }
