"""What was found in the data, in a few lines for a terminal."""

from collections.abc import Sequence

from vitrail.data.gate import Inspection
from vitrail.data.source import Finding
from vitrail.units import counted, shortened

_ORDER = ("error", "warning", "info")
_CLASSES = 8
_WIDE = 240


def told(
    inspection: Inspection, more: Sequence[Finding] = (), *, most: int | None = 8
) -> list[str]:
    """Return lines: how many images each class has, then the findings, the worst first.

    `more` are findings of the split. Of errors and warnings the first `most` are said; the rest,
    and what is only good to know, is counted, as it is in the report. With `most` None there is no
    report, and everything is said.
    """
    findings = sorted([*inspection.findings, *more], key=lambda f: _ORDER.index(f.severity))
    grave = [finding for finding in findings if finding.severity != "info"]
    said = findings if most is None else grave[:most]
    lines = [_classes(inspection)]
    lines += [f"{f.severity}: {_first(f)}" for f in said]
    rest = len(findings) - len(said)
    if rest:
        lines.append(f"{counted(rest, 'further finding')} in the report")
    return [_printable(line) for line in lines]


def _classes(inspection: Inspection) -> str:
    kinds = inspection.source.noun, inspection.source.nouns
    sizes = dict(zip(inspection.classes, inspection.counts, strict=True))
    if not sizes:
        return f"{counted(len(inspection), *kinds)} without classes"
    text = f"{counted(len(inspection), *kinds)} of {counted(len(sizes), 'class', 'classes')}"
    if len(sizes) <= _CLASSES:
        return f"{text}: {', '.join(f'{shortened(name, 40)} {n:,}' for name, n in sizes.items())}"
    least, largest = (choose(sizes, key=lambda name: sizes[name]) for choose in (min, max))
    if sizes[least] == sizes[largest]:
        return f"{text}, {sizes[least]:,} of each"
    return (
        f"{text}: {sizes[least]:,} ({shortened(least, 40)}) to {sizes[largest]:,} "
        f"({shortened(largest, 40)}) each"
    )


def _first(finding: Finding) -> str:
    """Return the message, and the first image concerned where it names none."""
    text = shortened(finding.message, _WIDE)
    if finding.keys and finding.severity == "error" and "first" not in text:
        text += f" (first {shortened(finding.keys[0], 80)!r})"
    return text


def _printable(text: str) -> str:
    """Escape what would move a terminal's cursor or colour it: names may hold such characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
