import importlib.util
import sys

import keras
import pytest

from flowerkit import accelerator as accelerator_folder
from flowerkit.__main__ import main
from flowerkit.accelerator import device
from flowerkit.cli.doctor import GIB, clear_cache, examine
from flowerkit.data import find_decoder
from flowerkit.photos import load_photos
from flowerkit.sources import competition, draw_photos


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path, accelerator):
    """No Kaggle, no cached weights, whatever the machine has."""
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(competition, "MOUNTS", ())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))


def find(topic, source="auto"):
    (finding,) = [finding for finding in examine(source) if finding.topic == topic]
    return finding


def test_a_machine_with_data_is_described_topic_by_topic(drawn, accelerator):
    findings = examine(str(drawn.folder))
    topics = [finding.topic for finding in findings]
    assert topics[:4] == ["device", "versions", "decoder", "memory"]
    assert topics[4:] == ["disk", "cache", "data", "weights"]
    found = {finding.topic: finding.found for finding in findings}
    assert found["device"] == str(accelerator)
    assert f"{accelerator.backend} " in found["versions"]
    assert found["decoder"].endswith("decodes JPEGs")
    assert " GiB free, " in found["memory"]
    assert "4 classes, 32 px, train 50, val 18, test 22" in found["data"]
    assert not any(finding.blocks for finding in findings)


def test_data_that_is_not_there_blocks_and_has_a_remedy(tmp_path):
    finding = find("data", str(tmp_path / "nowhere"))
    assert finding.blocks
    assert "nowhere" in finding.remedy
    assert "-> " in str(finding)


def test_the_doctor_downloads_draws_and_converts_nothing(tmp_path):
    finding = find("data")
    assert "no competition data on this machine" in finding.found
    assert "flowerkit draw FOLDER" in finding.remedy
    assert not finding.blocks  # `train` would find or draw some
    photos = draw_photos(tmp_path / "own", num_classes=2, photos_per_class=2, image_size=16)
    assert find("data", str(photos)).found.startswith(f"photos in {photos}")
    assert not (tmp_path / "cache").exists()


def test_on_kaggle_missing_competition_data_blocks(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    finding = find("data")
    assert finding.blocks
    assert "tpu-getting-started" in finding.remedy


def test_cached_weights_are_named_and_missing_ones_have_a_remedy(tmp_path):
    missing = find("weights")
    assert str(tmp_path / "keras" / "models") in missing.found
    assert "--plan smoke" in missing.remedy
    file = tmp_path / "keras" / "models" / "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir(parents=True)
    file.touch()
    assert (find("weights").found, find("weights").remedy) == (file.name, None)


@pytest.mark.parametrize(("free_gib", "has_remedy"), [(2, True), (4, False)])
def test_scarce_memory_has_a_remedy(monkeypatch, free_gib, has_remedy):
    monkeypatch.setattr(accelerator_folder, "free_memory_bytes", lambda: free_gib * GIB)
    finding = find("memory")
    assert finding.found.startswith(f"{free_gib}.00 GiB free")
    assert ("3 GiB" in (finding.remedy or "")) is has_remedy


def test_a_device_that_does_not_start_blocks(monkeypatch):
    monkeypatch.setattr(device, "_connected", None)
    monkeypatch.setenv("FLOWERKIT_VIRTUAL_CPUS", "many")
    finding = find("device")
    assert finding.blocks
    assert "FLOWERKIT_VIRTUAL_CPUS" in finding.remedy


def test_a_machine_without_keras_is_examined_all_the_same(monkeypatch):
    versions = accelerator_folder.versions() | {"keras": None}
    monkeypatch.setattr(accelerator_folder, "versions", lambda: versions)
    finding = find("keras")
    assert finding.blocks
    assert finding.remedy == "pip install keras"


def test_a_slower_decoder_has_its_name_and_the_remedy(monkeypatch):
    for library in ("simplejpeg", "cv2"):
        monkeypatch.setitem(sys.modules, library, None)
    find_decoder.cache_clear()
    finding = find("decoder")
    find_decoder.cache_clear()
    assert finding.found.startswith("Pillow decodes JPEGs, to the same pixels")
    assert (finding.remedy, finding.blocks) == ("pip install simplejpeg", False)


def test_the_cache_is_measured_and_cleared_of_what_flowerkit_made(tmp_path):
    photos = draw_photos(tmp_path / "own", num_classes=2, photos_per_class=6, image_size=16)
    data = load_photos(photos, image_size=16)
    mine = tmp_path / "cache" / "photos-of-mine" / "rose.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    assert str(tmp_path / "cache") in find("cache").found
    num_bytes = sum(file.stat().st_size for file in data.folder.rglob("*") if file.is_file())
    assert clear_cache() == num_bytes
    assert not data.folder.exists()
    assert mine.exists()
    assert load_photos(photos, image_size=16) == data


def test_the_command_clears_the_cache_and_fails_where_nothing_can_be_trained(
    drawn, capsys, tmp_path
):
    assert main(["doctor", "--clear-cache", "--data", str(drawn.folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("removed 0.0 MiB from the cache\ndevice     ")
    assert main(["doctor", "--data", str(tmp_path)]) == 1
    assert "data       none\n           -> no tfrecords-jpeg-SxS/ under" in capsys.readouterr().out


def test_a_plan_without_a_topology_is_wrong_usage_and_an_unknown_topology_is_named(capsys):
    assert main(["doctor", "--backbone", "tiny"]) == 2
    assert "--compile-for TOPOLOGY" in capsys.readouterr().err
    assert main(["doctor", "--compile-for", "h100", "--backbone", "tiny"]) == 1
    assert "'h100' is no topology that is known here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.skipif(
    not (keras.backend.backend() == "jax" and importlib.util.find_spec("libtpu")),
    reason="no libtpu",
)
def test_a_plan_is_compiled_for_chips_that_are_not_here(drawn, capsys):
    words = [
        "--backbone",
        "tiny",
        "--weights",
        "none",
        "--freeze-epochs",
        "1",
        "--per-replica-batch",
        "4",
    ]
    data = ["--data", str(drawn.folder)]
    assert main(["doctor", "--compile-for", "v5e:2x4", *data, *words]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("v5e:2x4: 8 devices of 16 GB, 4 images each, bfloat16; tiny, 32 px, 4 ")
    programs = [line for line in lines if not line.startswith("    ")]
    names = ["the head's step", "the network's step", "predicting, body", "predicting, head"]
    assert [line.split(":")[0] for line in programs] == names
    assert all(": compiles, in " in line for line in programs)
    assert sum(" GFLOP, " in line for line in lines) == 4
    assert sum(line.startswith("    estimates: at least ") for line in lines) == 4
