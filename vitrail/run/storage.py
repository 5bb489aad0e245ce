"""Optuna studies: in a file of the run folder, or in a database whose password stays outside."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import ConfigError, RunError
from vitrail.units import shortened

if TYPE_CHECKING:
    from optuna import Study

# Where a URL with its password may be given, so that no command line and no file has it.
VARIABLE = "VITRAIL_STORAGE"
# Seconds that a connection may take, and that a file may be locked by another process.
SERVER_S, LOCKED_S = 10, 60
# The drivers that the extra `storage` installs; SQLAlchemy takes others where a URL names none.
DRIVERS = {"postgresql": "psycopg2", "mysql": "pymysql", "mariadb": "pymysql"}
_SECRET = re.compile(".*(passw|pwd|secret|token)", re.IGNORECASE)


def open_storage(where: Path | str) -> Any:
    """Open the Optuna storage in a file, or at a database's URL. Raises RunError."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError

    with speaking(where):
        if isinstance(where, Path):
            return _in_file(where)
        more = {"connect_args": _patience(where), "pool_pre_ping": True}
        try:
            return RDBStorage(driven(where), engine_kwargs=more)
        except DBAPIError:
            # Of two machines that make the tables at once the later one finds them made.
            time.sleep(1 + random.random())
            return RDBStorage(driven(where), engine_kwargs=more)


def open_study(where: Path | str, name: str, storage: Any = None) -> Study:
    """Open the study `name`, which is made if it is not there, in a file or at a database's URL.

    Higher values are better; `storage` is that of `where` if it is open already. Raises RunError
    when it cannot be opened or is damaged.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(where) if storage is None else storage
    with speaking(where):
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        study.get_trials(deepcopy=False)  # reads all of it, so that damage shows now
    return study


def check_reachable(url: str) -> None:
    """Raise RunError where the database at `url` cannot be reached, or its driver is missing."""
    from sqlalchemy import create_engine, text

    with speaking(url):
        engine = create_engine(driven(url), connect_args=_patience(url))
        with engine.connect() as connection:
            connection.execute(text("select 1"))
        engine.dispose()


def driven(url: str) -> str:
    """Return a database's URL with the driver of the extra `storage` where it names none and that
    is installed."""
    scheme, slashes, rest = url.partition("://")
    driver = DRIVERS.get(scheme)
    if driver is None or find_spec(driver) is None:
        return url
    return f"{scheme}+{driver}{slashes}{rest}"


def _patience(url: str) -> dict[str, int]:
    """Return how long a driver waits for a server, which would be minutes, or for a locked file."""
    if url.startswith("sqlite"):
        return {"timeout": LOCKED_S}
    known = url.startswith(("postgresql", "mysql", "mariadb")) and "connect_timeout" not in url
    return {"connect_timeout": SERVER_S} if known else {}


def _in_file(path: Path) -> Any:
    """Open SQLite in a file of any name: in a URL some signs of a path
    would mean something else.
    """
    from optuna.storages import RDBStorage

    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunError(f"{path} is a link or a device, not a file of its own: remove it")
    return RDBStorage(
        "sqlite:///study.sqlite",
        engine_kwargs={"creator": lambda: sqlite3.connect(path, check_same_thread=False)},
    )


@contextmanager
def speaking(where: Path | str) -> Iterator[None]:
    """Turn what a database or its driver raises inside into a RunError that names the study."""
    try:
        yield
    except Exception as error:
        # Drivers have classes of their own, and Optuna raises whatever a row that it did not write
        # makes it stumble over.
        if not _of_database(error):
            raise
        reason = _without_secrets(str(error).strip() or type(error).__name__, str(where))
        reason = shortened(reason.splitlines()[0], 300)
        if isinstance(where, Path):
            raise RunError(
                f"the study {where} cannot be used ({reason}): free some space or restore it, then "
                "go on with --resume, or start a new run"
            ) from error
        raise RunError(
            f"the study {redacted(where)} cannot be opened ({reason}): give --storage a URL such "
            "as postgresql://user@machine/name with its driver installed, or go on with --resume "
            "when it can be reached"
        ) from error


def _of_database(error: BaseException) -> bool:
    """Return whether the error was raised in Optuna, SQLAlchemy or below them."""
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in ("optuna", "sqlalchemy", "alembic"):
            return True
        trace = trace.tb_next
    return False


def redacted(url: str) -> str:
    """Return a database's URL without its password, which is what may be written down."""
    scheme, account, rest = _parts(url)
    user = account.partition(":")[0]
    address, question, query = rest.partition("?")
    kept = "&".join(one for one in query.split("&") if not _SECRET.match(one.partition("=")[0]))
    return f"{scheme}{user}{address}" + (question + kept if kept else "")


def _parts(url: str) -> tuple[str, str, str]:
    """Return the scheme with its slashes, the account before the last @ of
    the address, all the rest.
    """
    scheme, slashes, rest = url.partition("://")
    first = rest.find("@")
    if not slashes or first < 0:
        return scheme + slashes, "", rest
    end = min((at for sign in "/?" if (at := rest.find(sign, first)) > 0), default=len(rest))
    last = rest.rfind("@", 0, end)
    return scheme + slashes, rest[:last], rest[last:]


def completed(stored: str | None, given: str | None = None) -> str | None:
    """Return the URL with the password that was written down without: the one `given` by the
    option, else that of $VITRAIL_STORAGE, else as it is stored, which drivers complete by their own
    means (a .pgpass file, $PGPASSWORD). Raises ConfigError when the option names another study.
    """
    if given is not None:
        if stored is None or redacted(given) != redacted(stored):
            known = redacted(stored) if stored else "none"
            raise ConfigError(
                f"--storage is {redacted(given)}, the run began with {known}: leave it out, or "
                "start a new run"
            )
        return given
    outside = os.environ.get(VARIABLE)
    if stored is not None and outside is not None and redacted(outside) == redacted(stored):
        return outside
    return stored


def _without_secrets(text: str, url: str) -> str:
    """Return the text without the URL's password, which a driver may repeat."""
    password = _parts(url)[1].partition(":")[2]
    text = text.replace(url, redacted(url))
    return text.replace(password, "...") if len(password) > 3 else text
