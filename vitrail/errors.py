"""Mistakes that a user can mend: each message is one sentence, value, expectation and remedy.

The command line prints the sentence and exits with 2; anything else that is raised is a
defect of vitrail itself and keeps its traceback.

    VitrailError
      ConfigError        a setting, a name, a size: config, models, methods, objectives, commands
      CheckpointError    a file of weights: checkpoint, models.load, fit --pretrained
      DataError          images, labels, tables: data, predict, explain
      BudgetError        a limit that cannot be read or met: units, search
      RunError           a run folder or an interrupted training: run, predict, explain
      ExportError        an exported file that computes something else: engines, export
      BenchError         a measurement that cannot be made: bench
"""

from importlib import metadata
from pathlib import Path

# Names and values of a file may be of any length; a sentence that nobody can read tells nothing.
LONGEST = 3000


class VitrailError(Exception):
    """Common base of all errors that a user meets; a message of endless length loses its middle."""

    def __init__(self, message: object = "", *more: object) -> None:
        if isinstance(message, str) and len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__(message, *more)


class ConfigError(VitrailError):
    """Raised for a field, a value or a name that does not exist or does not fit."""


class CheckpointError(VitrailError):
    """Raised for a file of weights that cannot be read, is not safe, or does not fit."""


class DataError(VitrailError):
    """Raised for a data set that cannot be found, read or learned from."""


class BudgetError(VitrailError):
    """Raised for a budget that cannot be read or that no candidate meets."""


class RunError(VitrailError):
    """Raised for a run folder that is missing, in use or taken, or a training that cannot go on."""


class ExportError(VitrailError):
    """Raised for an exported file that does not compute what the model computes."""


class BenchError(VitrailError):
    """Raised for a measurement that lacks a library, a device or threads."""


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
