"""What a server takes in: bytes, pixels, waiting images and seconds, and how it refuses more."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.errors import ConfigError


class Refused(Exception):
    """Raised for a request that is not answered: an HTTP status, and why in one sentence."""

    def __init__(self, status: int, reason: str, *, retry_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_s = status, reason, retry_s


@dataclass(frozen=True)
class Limits:
    """How much a server takes in at a time.

    `bytes` of a request's body, `pixels` of one picture, `images` of one request; up to `waiting`
    images queue, others are asked to come again; `batch` of them are answered at once, after the
    first has waited `gather_s` for the others; a body must be there within `body_s`. Raises
    ConfigError.
    """

    bytes: int = 16 << 20
    pixels: int = 50_000_000
    images: int = 32
    waiting: int = 128
    batch: int = 16
    gather_s: float = 0.004
    body_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "images", "waiting", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give 1 at least")
        if self.waiting < self.images:
            raise ConfigError(
                f"--waiting is {self.waiting} and one request may bring {self.images} images: let "
                "as many wait at least"
            )
