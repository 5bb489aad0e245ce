"""Mistakes that a user can mend: each message is one sentence, value, expectation and remedy.

The command line prints the sentence and exits with 2; anything else that is raised is a
fault of vitrail's own and keeps its traceback.
"""

from importlib import metadata
from pathlib import Path


class VitrailError(Exception):
    """Base of all errors that a user meets."""


class ConfigError(VitrailError):
    """A field, a value or a name that does not exist or does not fit."""


class CheckpointError(VitrailError):
    """A file of weights that cannot be read, is not safe, or is of another architecture."""


class DataError(VitrailError):
    """A data set that cannot be found, read or learned from."""


class BudgetError(VitrailError):
    """A budget that cannot be read or that no candidate meets."""


class RunError(VitrailError):
    """A run folder that is missing, in use or taken, or a training that cannot go on."""


class ExportError(VitrailError):
    """An exported file that does not compute what the model computes."""


class BenchError(VitrailError):
    """A comparison that cannot be made: a library, a device or threads that are not there."""


def extra(name: str) -> str:
    """Return the command that installs what the extra `name` needs: `pip install 'pyarrow>=20'`.

    It names the packages and not vitrail[name], so that it works from a clone, a wheel or an
    index alike. Where vitrail itself is not installed, it names the folder of its sources.
    """
    needs = []
    try:
        requirements = metadata.requires("vitrail") or ()
    except metadata.PackageNotFoundError:
        requirements = ()
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        if marker.replace('"', "'").strip() == f"extra == '{name}'":
            needs.append(f"'{package.strip()}'")
    sources = Path(__file__).parents[1]
    return f"pip install {' '.join(needs)}" if needs else f"pip install '{sources}[{name}]'"
