"""Names of a package that load their module at first use, so that importing flowerkit stays cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping

from flowerkit.synonyms import find_command
from flowerkit.text import did_you_mean


def lazy(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for a package whose names live in its modules.

    `modules` has the names of each, with blanks between. A package writes
    `__getattr__, __dir__, __all__ = lazy(__name__, {"plan": "TrainingPlan load_plan"})`.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}
    names = sorted(homes)

    def get(name: str):
        if name not in homes:
            hint = did_you_mean(find_command(name) or name, [] if name.startswith("_") else names)
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}".rstrip("."))
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use costs nothing
        return value

    return get, lambda: names, names
