"""The service. Modules that add doors (`*_doors.py`) or tables (`*_models.py`) to it are found by their names."""

from fnmatch import fnmatch
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def modules_named(pattern: str) -> list[ModuleType]:
    """The modules of this package whose names match a pattern such as `*_doors`."""
    names = [module.name for module in iter_modules(__path__) if fnmatch(module.name, pattern)]
    return [import_module(f"{__name__}.{name}") for name in names]
