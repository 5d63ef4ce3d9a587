import pytest

from flowerkit.cli.connecting import connect_device


def test_a_device_is_started_once_and_told_in_a_line(accelerator):
    told = []
    assert connect_device(None, told.append) is accelerator
    assert told == [str(accelerator)]


def test_another_device_than_required_is_refused_and_nothing_is_told(accelerator):
    told = []
    other = "gpu" if accelerator.kind != "gpu" else "tpu"
    with pytest.raises((RuntimeError, ValueError), match=f"require='{other}'"):
        connect_device(other, told.append)
    assert told == []
