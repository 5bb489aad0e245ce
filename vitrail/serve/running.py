"""A server that runs until it is told to end, and then answers what it has begun."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from vitrail.errors import ConfigError
from vitrail.files import reason

if TYPE_CHECKING:
    from vitrail.serve.app import Server

# What has begun may take so long after a signal.
GRACE_S = 20
# Clients beyond this are told to come again before anything of theirs is read.
CONNECTIONS = 512


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ConfigError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(CONNECTIONS)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({reason(error)}): choose another by --port, "
            "or 0 for a free one"
        ) from error
    return made


def run_server(server: Server, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told the address, and the end. Raises ConfigError."""
    import uvicorn

    made = listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        server.app, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=5,
        timeout_graceful_shutdown=GRACE_S, h11_max_incomplete_event_size=16 << 10,
        http="h11", ws="none", lifespan="on",
    )  # fmt: skip
    say(f"serving at http://{shown}:{made.getsockname()[1]}")
    with suppress(KeyboardInterrupt):  # raised once more when all that had begun is answered
        uvicorn.Server(config).run(sockets=[made])
    say("stopped")
