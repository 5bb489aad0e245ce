"""`python -m vitrail.bench docs/speed.md FOLDER ...` writes a page from folders of figures.

Folders are those of `vitrail bench` (inference and training) and `vitrail growth`. Beside the page
lies its picture. With `--baseline FILE` the ratios are kept there as well, for `make bench-check`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vitrail.bench import FILE, growth, read
from vitrail.report import canvas
from vitrail.report import growth as growth_page
from vitrail.report.speed import SpeedFacts, compiled_markdown, markdown, ratio_bars

_TITLES = {"inference": "Inference", "training": "A training step"}


def page(comparisons: list[SpeedFacts], grown: list[growth_page.GrowthFacts], picture: str) -> str:
    """Return the Markdown of all comparisons, and of growth where it was measured."""
    lines = [
        "# Speed",
        "",
        "Made by `make bench` on the machine that each table names. Each peer's weights were",
        "loaded into ours and outputs compared before anything was timed; all of a row took turns",
        "in one process. Times are medians; “eager x” and “folded x” are how many times as fast",
        "vitrail is as the fastest peer, the interval is the 95 % interval of the larger. “Of",
        "product” is the share of the rate at which the machine multiplies matrices, measured in",
        "the same turns; convolutions that save multiplications can exceed 100 %. “Memory x” is",
        "our peak memory beyond weights and images over that peer's.",
        "",
        f"![ratios to the fastest peer]({picture})",
    ]
    for facts in comparisons:
        if facts.settings["compiled"]:
            lines += ["", "## torch.compile", "", compiled_markdown(facts).rstrip()]
        else:
            lines += ["", f"## {_TITLES[facts.settings['mode']]}", "", markdown(facts).rstrip()]
    for facts in grown:
        plural = "" if facts.threads == 1 else "s"
        lines += [
            "",
            "## Growth",
            "",
            "Exponents by which cost grows with the area of the image, the batch and the depth,",
            f"fitted over the three largest points; {facts.threads} thread{plural}, one image, "
            "folded.",
            "",
            growth_page.markdown(facts).rstrip(),
        ]
    return "\n".join(lines) + "\n"


def ratios(facts: SpeedFacts) -> dict[str, dict[str, float]]:
    """Return the ratio of every variant and batch that has a peer."""
    found: dict[str, dict[str, float]] = {}
    for row in facts.rows:
        if row.best:
            found.setdefault(row.variant, {})[str(row.batch)] = round(row.best.times, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--baseline", type=Path)
    options = parser.parse_args()
    comparisons = [read(folder) for folder in options.folders if (folder / FILE).is_file()]
    grown = [growth.read(f) for f in options.folders if (f / growth.FILE).is_file()]
    picture = options.page.with_suffix(".svg")
    drawn = ratio_bars(comparisons[0], canvas.WIDE, "ratios")
    picture.write_text(canvas.alone(drawn))
    options.page.write_text(page(comparisons, grown, picture.name))
    if options.baseline:
        first = comparisons[0]
        kept = {"machine": first.machine, "settings": first.settings, "ratios": ratios(first)}
        options.baseline.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
