"""A plan that takes seconds, for what trains several runs."""

import pytest

from flowerkit.training import TrainingPlan


@pytest.fixture(scope="session")
def dense_plan(accelerator):
    """An epoch of a small dense network at a global batch of 16."""
    return TrainingPlan(
        backbone="dense-small",
        weights=None,
        head="plain",
        dropout=0.0,
        epochs=1,
        patience=None,
        per_replica_batch=16 // accelerator.replicas,
        lr_reference_batch=None,
        schedule="constant",
        flip=False,
    )
