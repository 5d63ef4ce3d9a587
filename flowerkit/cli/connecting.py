"""The device of a command: started without the noise of frameworks, and told in a line."""

from collections.abc import Callable

from flowerkit.accelerator import Accelerator, connect
from flowerkit.cli.terminal import quiet_frameworks


def connect_device(require: str | None, echo: Callable[[str], None]) -> Accelerator:
    """Start the device as `accelerator.connect` does, import TensorFlow for the shards, and tell."""
    with quiet_frameworks():
        accelerator = connect(require)
        import tensorflow  # noqa: F401 - with jax too, the shards are written and read with it
    echo(str(accelerator))
    return accelerator
