"""A stand-in for the Hugging Face Hub on loopback: the part of its protocol that a download uses,
and the ways in which it can fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


class Hub:
    """Repositories by name, each with its files; `fault` is what goes wrong now, `log` what was
    asked: method, path, range."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.fault, self.log, self.token = "", [], None
        self.url = self.files = ""

    def etag(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.log.append((self.command, path, self.headers.get("Range")))
            if hub.fault.isdecimal():
                return self._send(int(hub.fault), b"{}")
            if hub.fault == "slow":
                time.sleep(30)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/tree/.*)?", path):
                return self._told(match[1], tree=bool(match[2]))
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                return self._redirect(match[1], match[2])
            if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
                return self._bytes(hub.repos[match[1]][match[2]], body)
            return self._send(404, b"{}")

        def _told(self, repo: str, *, tree: bool) -> None:
            if repo not in hub.repos:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            files = hub.repos[repo]
            rows = [
                {"type": "file", "path": n, "oid": "1" * 40, "size": len(data)}
                for n, data in files.items()
            ]
            siblings = [{"rfilename": n, "size": len(data)} for n, data in files.items()]
            about = {"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            about["cardData"] = {"license": "apache-2.0"}
            self._send(200, json.dumps(rows if tree else about).encode())

        def _redirect(self, repo: str, name: str) -> None:
            data = hub.repos.get(repo, {}).get(name)
            if data is None:
                code = "EntryNotFound" if repo in hub.repos else "RepoNotFound"
                self._send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
                return
            told = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.etag(data)}"',
                "X-Linked-Size": str(len(data)),
                "ETag": f'"{hub.etag(data)}"',
                "Location": f"{hub.files}/cdn/{repo}/{name}",
            }
            self._send(302, b"", told)

        def _bytes(self, data: bytes, body: bool) -> None:
            if hub.fault == "wrong bytes":
                data = data[:-1] + bytes([data[-1] ^ 1])
            first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(data) - first))
            self.send_header("Accept-Ranges", "bytes")
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return
            if hub.fault == "cut off":
                hub.fault = ""  # the next time it goes on
                self.wfile.write(data[first : first + len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(data[first:])

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


@contextmanager
def standing_in() -> Iterator[Hub]:
    """Serve a Hub, on a port of its own, while inside."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.files = f"http://localhost:{server.server_port}"  # the Hub's files lie on another host
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
