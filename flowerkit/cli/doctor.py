"""doctor: what this machine has for flowerkit, and what to do about what is missing."""

import shutil
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from flowerkit import accelerator
from flowerkit.cli.ahead import compile_for
from flowerkit.cli.options import add_data, add_plan, add_precision, find_changes
from flowerkit.cli.parser import WrongUsage
from flowerkit.cli.terminal import Echo, Progress
from flowerkit.console import quiet_frameworks
from flowerkit.files import cache_folder
from flowerkit.text import format_bytes, pluralize

GIB = 2**30
# What flowerkit keeps in the cache folder beside converted photos, and makes again when it is needed.
CACHED = ("drawn-*-classes-*-px-*", "features", "compiled")


@dataclass(frozen=True)
class Finding:
    """A topic, what was found, and a remedy if something is missing.

    `blocks`: nothing can be trained without the remedy.
    """

    topic: str
    found: str
    remedy: str | None = None
    blocks: bool = False

    def __str__(self) -> str:
        line = f"{self.topic:<10} {self.found}"
        return f"{line}\n{'':>10} -> {self.remedy}" if self.remedy else line


def add_doctor_options(parser: ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument(
        "--clear-cache",
        action="store_true",
        help="remove converted photos, drawn flowers, features and compilations; no run may use them",
    )

    parser.add_argument(
        "--compile-for",
        metavar="TOPOLOGY",
        help="compile a plan's steps for a TPU that is not here, such as v5e:2x4, and say what they "
        "need there; with libtpu, for JAX",
    )
    add_precision(parser)
    add_plan(parser)


def run_doctor(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.sources import check_source

    if args.data not in ("auto", "drawn") and not Path(args.data).expanduser().exists():
        check_source(args.data)  # a wrong path is said at once; what else is wrong is a finding
    if args.compile_for:
        return compile_for(args, echo)
    if args.plan or find_changes(args):
        raise WrongUsage("a plan and its fields belong to --compile-for TOPOLOGY. Pass it, too.")
    if args.clear_cache:
        echo(f"removed {format_bytes(clear_cache())} from the cache")
    with quiet_frameworks():
        findings = examine(args.data)
    for finding in findings:
        echo(str(finding))
    return int(any(finding.blocks for finding in findings))


def examine(source: str = "auto") -> list[Finding]:
    """Device, versions, decoder, memory, disk, cache, data and weights.

    Starts the device; raises nothing.
    """
    return [
        _examine_device(),
        *_examine_versions(),
        _examine_decoder(),
        *_examine_space(),
        _examine_data(source),
        _examine_weights(),
    ]


def clear_cache() -> int:
    """Remove what flowerkit keeps in the cache; returns the bytes that this freed."""
    folders = _find_cached()
    before = _count_bytes(folders)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return before - _count_bytes(folders)


def _find_cached() -> list[Path]:
    """The folders that flowerkit keeps in the cache and that no process is converting into."""
    from flowerkit.photos import find_converted

    cache = cache_folder()
    return [*find_converted(), *(path for name in CACHED for path in sorted(cache.glob(name)))]


def _count_bytes(folders: list[Path]) -> int:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum(file.lstat().st_size for file in files)


def _examine_device() -> Finding:
    try:
        return Finding("device", str(accelerator.connect()))
    except (RuntimeError, ValueError) as error:
        return Finding("device", "none started", str(error), blocks=True)


def _examine_versions() -> list[Finding]:
    versions = accelerator.versions()
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    findings = [Finding("versions", installed)]
    if not versions["keras"]:
        findings.append(Finding("keras", "not installed", "pip install keras", blocks=True))
    return findings


def _examine_decoder() -> Finding:
    from flowerkit.data import find_decoder

    decoder = find_decoder()
    if decoder.name == "simplejpeg":
        return Finding("decoder", "simplejpeg decodes JPEGs")
    fact = f"{decoder.name} decodes JPEGs, to the same pixels as simplejpeg, but more slowly"
    return Finding("decoder", fact, "pip install simplejpeg")


def _examine_space() -> list[Finding]:
    memory, disk = accelerator.free_memory_bytes(), shutil.disk_usage(".").free
    more_memory = "close other programs: training needs 3 GiB" if memory < 3 * GIB else None
    more_disk = "free some space: a run folder takes up to 0.5 GiB" if disk < GIB else None
    cached, folder = _count_bytes(_find_cached()), cache_folder()
    clear = "flowerkit doctor --clear-cache frees it" if cached > GIB else None
    return [
        Finding(
            "memory",
            f"{format_bytes(memory)} free, {pluralize(accelerator.num_cores(), 'core')}",
            more_memory,
        ),
        Finding("disk", f"{format_bytes(disk)} free in this folder", more_disk),
        Finding("cache", f"{format_bytes(cached)} in {folder}", clear),
    ]


def _examine_data(source: str) -> Finding:
    from flowerkit.sources import find_data, is_competition_required, is_of_photos

    if source == "auto" and not is_competition_required():
        fact = "no competition data on this machine; 'auto' would download it or draw flowers"
        return Finding("data", fact, "pass --data FOLDER, or draw some: flowerkit draw FOLDER")
    if source not in ("auto", "drawn") and is_of_photos(Path(source).expanduser()):
        return Finding("data", f"photos in {source}, which the first run converts into shards")
    try:
        return Finding("data", str(find_data(source)))
    except (OSError, ValueError, RuntimeError) as error:
        return Finding("data", "none", str(error), blocks=True)


def _examine_weights() -> Finding:
    from flowerkit.models import find_cached_weights, weights_folder

    if cached := find_cached_weights():
        return Finding("weights", ", ".join(path.name for path in cached))
    return Finding(
        "weights",
        f"no ImageNet weights cached in {weights_folder()}",
        "with internet the first run downloads them; without, put the backbone's _notop.h5 file there, "
        "pass --backbone FILE.keras, or train a small network from scratch (--plan smoke)",
    )
