"""A PostgreSQL server of one test, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s3cret"


def programs() -> Path | None:
    """Return the folder of initdb and pg_ctl, the newest of Debian's or that of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def server() -> Iterator[str]:
    """Run a server on a free port of this machine, and stop it; yields a URL with a password."""
    folder, bins = Path(tempfile.mkdtemp(prefix="vitrail-pg-")), programs()
    assert bins is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    secret = folder / "password"
    secret.write_text(PASSWORD)
    data, log = folder / "data", folder / "log"
    # The server refuses to run as root.
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        shutil.chown(secret, "postgres")
        as_user = ("runuser", "-u", "postgres", "--")

    def run(*words: str) -> None:
        with log.open("a") as out:
            subprocess.run(
                [*as_user, *words], check=True, stdout=out, stderr=out, cwd="/", timeout=120
            )

    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
    run(f"{bins}/initdb", "-D", str(data), "-U", "me", "-A", "scram-sha-256", f"--pwfile={secret}")
    run(f"{bins}/pg_ctl", "-D", str(data), "-w", "-o", options, "-l", str(folder / "own"), "start")
    try:
        yield f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        run(f"{bins}/pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop")
        shutil.rmtree(folder)
