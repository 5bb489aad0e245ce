"""Draw a folder of composites with exact masks, to try networks of maps with.

    python bench/composites.py /tmp/garments --n 2000 --side 96
    vitrail fit /tmp/garments --latency 60ms

Garments of the bundled sample on drawn canvases, overlapping: see `vitrail.data.composites`.
"""

from __future__ import annotations

import argparse

from vitrail.data.composites import Composites, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    what = Composites(asked.n, (asked.side, asked.side), asked.kinds, seed=asked.seed)
    print(f"{asked.n} composites are in {write(asked.folder, what)}")


if __name__ == "__main__":
    main()
