import pytest

from flowerkit.accelerator import device
from flowerkit.cli import doctor
from flowerkit.cli.doctor import GIB, Finding, examine
from flowerkit.data import cache as decode_cache
from flowerkit.photos import load_photos
from flowerkit.sources import competition
from flowerkit.sources.synthetic import draw_photos


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path, accelerator):
    """No Kaggle, no cached weights, whatever the machine has."""
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(competition, "MOUNTS", ())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "decoded-elsewhere"))


def find(findings, topic):
    (finding,) = [finding for finding in findings if finding.topic == topic]
    return finding


def test_a_finding_is_a_line_and_its_remedy_another():
    assert str(Finding("disk", "90.0 GiB free here")) == "disk       90.0 GiB free here"
    assert str(Finding("data", "none", "draw some")) == "data       none\n           -> draw some"


def test_a_machine_with_data_is_told_topic_by_topic(drawn, accelerator):
    findings = examine(str(drawn.folder))
    topics = [finding.topic for finding in findings]
    assert topics == ["device", "versions", "memory", "disk", "cache", "data", "weights"]
    assert find(findings, "device").found == str(accelerator)
    assert f"{accelerator.backend} " in find(findings, "versions").found
    assert "GiB free, " in find(findings, "memory").found
    assert "4 classes, 32 px, train 50, val 18, test 22" in find(findings, "data").found
    assert find(findings, "data").remedy is None
    assert not any(finding.blocks for finding in findings)


def test_data_that_is_not_there_blocks_and_the_remedy_is_told(tmp_path):
    finding = find(examine(str(tmp_path / "nowhere")), "data")
    assert finding.blocks
    assert finding.found == "none"
    assert "nowhere" in finding.remedy


def test_auto_downloads_and_draws_nothing_for_a_look(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWERKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    finding = find(examine(), "data")
    assert "no competition data on this machine" in finding.found
    assert "flowerkit draw FOLDER" in finding.remedy
    assert not finding.blocks  # `train` would find or draw some
    assert not (tmp_path / "cache").exists()


def test_on_kaggle_missing_competition_data_blocks(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    finding = find(examine(), "data")
    assert finding.blocks
    assert "tpu-getting-started" in finding.remedy


def test_cached_weights_are_named_and_missing_ones_have_a_remedy(tmp_path):
    missing = find(examine(), "weights")
    assert missing.found == f"no ImageNet weights cached in {tmp_path / 'keras' / 'models'}"
    assert "--weights none" in missing.remedy
    file = tmp_path / "keras" / "models" / "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.parent.mkdir(parents=True)
    file.touch()
    cached = find(examine(), "weights")
    assert (cached.found, cached.remedy) == (file.name, None)


@pytest.mark.parametrize(("free_gib", "wanted"), [(2, "training wants 3 GiB"), (4, None)])
def test_scarce_memory_has_a_remedy(monkeypatch, free_gib, wanted):
    monkeypatch.setattr(device, "free_memory_bytes", lambda: free_gib * GIB)
    finding = find(doctor._examine_room(), "memory")
    assert finding.found.startswith(f"{free_gib}.0 GiB free")
    assert wanted is None if finding.remedy is None else wanted in finding.remedy


def test_decoded_images_are_counted_and_can_be_cleared(tmp_path, monkeypatch):
    folder = tmp_path / "decoded-elsewhere" / "decoded"
    empty = doctor._examine_cache()
    assert empty.found == f"no decoded images in {folder} (at most 20 GiB)"
    assert empty.remedy is None
    for key in "ab":
        growing = decode_cache.grow_file(key, (1, 64, 64, 3), "val")
        growing.keep()
    monkeypatch.setenv("FLOWERKIT_CACHE_GIB", "2.5")
    finding = doctor._examine_cache()
    assert finding.found == (f"decoded images of 2 splits, 0.0 MiB of at most 2.5 GiB, in {folder}")
    assert finding.remedy.startswith("flowerkit doctor --clear-cache frees them; FLOWERKIT_CACHE_")
    monkeypatch.setenv("FLOWERKIT_CACHE_GIB", "lots")
    assert doctor._examine_cache().blocks


def test_a_device_that_does_not_start_blocks(monkeypatch):
    monkeypatch.setattr(device, "_connected", None)
    monkeypatch.setenv("FLOWERKIT_VIRTUAL_CPUS", "many")
    finding = doctor._examine_device()
    assert finding.blocks
    assert "FLOWERKIT_VIRTUAL_CPUS must be a whole number from 1, got 'many'" in finding.remedy


def test_a_machine_without_keras_is_examined_all_the_same(monkeypatch):
    found = device.versions() | {"keras": None}
    monkeypatch.setattr(device, "versions", lambda: found)
    finding = find(examine(), "keras")
    assert finding.blocks
    assert finding.remedy == "pip install keras"


def test_features_are_counted_beside_decoded_images(tmp_path):
    for key, dtype in (("a", "uint8"), ("b", "float32"), ("c", "float32")):
        decode_cache.grow_file(key, (1, 8), "val", dtype).keep()
    found = doctor._examine_cache().found
    assert found.startswith(
        "decoded images of 1 split and features of 2 splits, 0.0 MiB of at most"
    )


def test_photos_are_looked_at_and_not_converted(tmp_path):
    folder = draw_photos(tmp_path / "own", num_classes=2, photos_per_class=2, image_size=16)
    finding = doctor._examine_data(str(folder))
    assert finding.found == f"photos in {folder}, which the first run converts into shards"
    assert not (tmp_path / "decoded-elsewhere").exists()


def test_converted_photos_are_counted_and_cleared_with_the_rest(tmp_path):
    assert doctor._examine_photos() == []
    photos = draw_photos(tmp_path / "own", num_classes=2, photos_per_class=6, image_size=16)
    data = load_photos(photos, image_size=16)
    (finding,) = doctor._examine_photos()
    cache = tmp_path / "decoded-elsewhere"
    assert finding.found == f"1 folder of converted photos, 0.0 MiB, in {cache}"
    assert finding.remedy.startswith("flowerkit doctor --clear-cache frees them; the next run")
    decode_cache.grow_file("a", (1, 8), "val").keep()
    num_bytes = sum(file.stat().st_size for file in data.folder.rglob("*") if file.is_file())
    assert doctor.clear_cache() == num_bytes + 8
    assert not data.folder.exists()
    assert load_photos(photos, image_size=16) == data
