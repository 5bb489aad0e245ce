"""Draw a folder of composites with exact masks or boxes, to try networks of maps and boxes with.

    python bench/composites.py /tmp/garments --n 2000 --side 96
    python bench/composites.py /tmp/boxed --boxes
    python bench/composites.py /tmp/stamps --side 256 --scale 3 8 --cutouts A --canvases B
    vitrail fit /tmp/garments --latency 60ms

Garments of the bundled sample on drawn canvases, overlapping; or cut-outs, in A a folder of
pictures with alpha for each kind, on the pictures in B: see `vitrail.data.composites`.
"""

from __future__ import annotations

import argparse

from vitrail.data.composites import Composites, write


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=10)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.8, 1.6))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--cutouts")
    parser.add_argument("--canvases")
    asked = parser.parse_args()
    what = Composites(
        asked.n, (asked.side, asked.side), asked.kinds, scale=tuple(asked.scale), seed=asked.seed
    )
    root = write(
        asked.folder, what, boxes=asked.boxes, cutouts=asked.cutouts, canvases=asked.canvases
    )
    print(f"{asked.n} composites are in {root}")


if __name__ == "__main__":
    main()
