"""What a space must know of the images, and which patches divide them."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.errors import ConfigError

# Fewer tokens see hardly where things are; more take long on a CPU.
FEWEST, MOST = 9, 128
KINDS = 3


@dataclass(frozen=True)
class Images:
    """Images of `size` (height, width) in pixels, with their channels and classes."""

    size: tuple[int, int]
    channels: int
    classes: int


def cut(images: Images, wanted: tuple[int, ...], title: str) -> tuple[int, ...]:
    """Return the patches that divide the images: those among `wanted`, or the three finest of 9 to
    128 tokens.

    Raises ConfigError where there is none.
    """
    height, width = images.size
    found = [p for p in wanted if height % p == 0 and width % p == 0]
    if not wanted:
        found = [
            p
            for p in range(2, min(height, width) + 1)
            if not height % p and not width % p and FEWEST <= height * width // p**2 <= MOST
        ][:KINDS]
    if not found:
        raise ConfigError(
            f"{title} cuts images into equal patches, and no patch divides {height}x{width} into "
            f"{FEWEST} to {MOST}: name a size with --image, such as "
            f"{_even(height)}x{_even(width)}"
        )
    return tuple(found)


def _even(side: int) -> int:
    return max(16, side - side % 16)
