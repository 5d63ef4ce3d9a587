"""The start of a notebook: its device, a folder for its results, and whose flowers it takes."""

import logging
from pathlib import Path
from typing import NamedTuple

from flowerkit.accelerator import Accelerator, collect_evidence, connect, detect
from flowerkit.files import find_free_folder
from flowerkit.sources.competition import WORKING, has_kaggle_token

_log = logging.getLogger("flowerkit")


class Session(NamedTuple):
    """What a notebook begins with: see `start_session`."""

    accelerator: Accelerator
    folder: Path
    source: str


def start_session(name: str) -> Session:
    """Connect the device, and find where results go and which data `find_data` should take.

    The folder is the next free NAME-N in /kaggle/working on Kaggle, which keeps what is there, elsewhere
    in runs/; it is not made. The source is "auto", the competition's data, on Kaggle and, if there is a
    Kaggle token, on Colab; elsewhere "drawn". Raises as `connect` does.
    """
    accelerator, host = connect(), detect(collect_evidence()).host
    folder = find_free_folder(WORKING if host == "kaggle" else "runs", name)
    if host == "kaggle" or (host == "colab" and has_kaggle_token()):
        return Session(accelerator, folder, "auto")
    if host == "colab":
        _log.warning(
            "no Kaggle token, so flowers are drawn. For the competition's, save one in Colab's secrets "
            "(the key in the side bar) as KAGGLE_API_TOKEN, and run this again."
        )
    return Session(accelerator, folder, "drawn")
