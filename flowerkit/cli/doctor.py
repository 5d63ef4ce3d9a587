"""What this machine has for flowerkit, and what to do about what is missing."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from flowerkit.accelerator import device as accelerator
from flowerkit.data import cache as decode_cache
from flowerkit.models.backbones import find_cached_weights, weights_folder
from flowerkit.photos import find_converted
from flowerkit.sources.finder import find_data, is_competition_required, is_of_photos
from flowerkit.text import format_bytes, pluralize

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, what was found, and the remedy if it is amiss.

    `blocks`: nothing can be trained until the remedy is taken.
    """

    topic: str
    found: str
    remedy: str | None = None
    blocks: bool = False

    def __str__(self) -> str:
        return f"{self.topic:<10} {self.found}" + (
            f"\n{'':>10} -> {self.remedy}" if self.remedy else ""
        )


def examine(source: str = "auto") -> list[Finding]:
    """Look at device, versions, memory, disk, data and weights. Starts the device; raises nothing."""
    return [
        _examine_device(),
        *_examine_versions(),
        *_examine_room(),
        _examine_cache(),
        *_examine_photos(),
        _examine_data(source),
        _examine_weights(),
    ]


def _examine_device() -> Finding:
    try:
        return Finding("device", str(accelerator.connect()))
    except (RuntimeError, ValueError) as error:
        return Finding("device", "none could be started", str(error), blocks=True)


def _examine_versions() -> list[Finding]:
    found = accelerator.versions()
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    findings = [Finding("versions", there)]
    if not found["keras"]:
        findings.append(Finding("keras", "not installed", "pip install keras", blocks=True))
    if not found["tensorflow"]:
        findings.append(
            Finding(
                "tensorflow",
                "not installed; tf.data reads the shards, under the jax backend too",
                "pip install tensorflow-cpu (beside a TPU) or tensorflow",
                blocks=True,
            )
        )
    return findings


def _examine_room() -> list[Finding]:
    memory, disk = accelerator.free_memory_bytes(), shutil.disk_usage(".").free
    return [
        Finding(
            "memory",
            f"{memory / GIB:.1f} GiB free, {accelerator.num_cores()} cores",
            "close other programs: training wants 3 GiB" if memory < 3 * GIB else None,
        ),
        Finding(
            "disk",
            f"{disk / GIB:.1f} GiB free here",
            "a run folder takes up to 0.5 GiB; make room" if disk < GIB else None,
        ),
    ]


def clear_cache() -> int:
    """Remove the decoded images, features and converted photos that no run holds; the bytes freed."""
    converted = find_converted()
    for folder in converted:
        shutil.rmtree(folder, ignore_errors=True)
    return decode_cache.clear_cache() + sum(converted.values())


def _examine_cache() -> Finding:
    """What decoded images and features take on the disk; few runs keep any."""
    folder, entries = decode_cache.decoded_folder(), decode_cache.list_cached()
    try:
        limit = f"{decode_cache.limit_bytes() / GIB:g} GiB"
    except ValueError as error:
        return Finding("cache", f"decoded images in {folder}", str(error), blocks=True)
    if not entries:
        return Finding("cache", f"no decoded images in {folder} (at most {limit})")
    taken = sum(entry.num_bytes for entry in entries)
    suffixes = [entry.path.suffix for entry in entries]
    counts = (("decoded images", ".uint8"), ("features", ".float32"))
    held = [
        f"{what} of {pluralize(suffixes.count(suffix), 'split')}"
        for what, suffix in counts
        if suffix in suffixes
    ]
    return Finding(
        "cache",
        f"{' and '.join(held)}, {format_bytes(taken)} of at most {limit}, in {folder}",
        f"flowerkit doctor --clear-cache frees them; {decode_cache.LIMIT_VARIABLE} sets the limit",
    )


def _examine_photos() -> list[Finding]:
    """What converted photos take on the disk, if there are any."""
    folders = find_converted()
    if not folders:
        return []
    taken = sum(folders.values())
    place = next(iter(folders)).parent
    return [
        Finding(
            "photos",
            f"{pluralize(len(folders), 'folder')} of converted photos, {format_bytes(taken)}, in {place}",
            "flowerkit doctor --clear-cache frees them; the next run converts its photos again",
        )
    ]


def _examine_data(source: str) -> Finding:
    if source == "auto" and not is_competition_required():
        return Finding(
            "data",
            "no competition data on this machine; 'auto' would download or draw flowers",
            "pass --data FOLDER, or draw some: flowerkit draw FOLDER",
        )
    if source not in ("auto", "drawn") and is_of_photos(Path(source).expanduser()):
        return Finding("data", f"photos in {source}, which the first run converts into shards")
    try:
        return Finding("data", str(find_data(source)))
    except (OSError, ValueError, RuntimeError) as error:
        return Finding("data", "none", str(error), blocks=True)


def _examine_weights() -> Finding:
    cached = find_cached_weights()
    if cached:
        return Finding("weights", ", ".join(path.name for path in cached))
    return Finding(
        "weights",
        f"no ImageNet weights cached in {weights_folder()}",
        "with internet they come at the first use; offline put the backbone's _notop.h5 file "
        "there, pass --backbone FILE.keras, or train with --weights none",
    )
