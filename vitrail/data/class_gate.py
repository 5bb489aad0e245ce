"""What the data gate says of classes of pixels or boxes: those nowhere, those in few images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitrail.data.names import few
from vitrail.data.source import Finding
from vitrail.units import counted

# Classes in fewer images than this are told.
FEW = 20


def class_findings(
    classes: Sequence[str], counts: np.ndarray, images: np.ndarray, where: str
) -> list[Finding]:
    """Return findings on classes without any of the `counts`, and on those in few `images`.

    `where` says what such a class is not in: "in no mask".
    """
    findings = []
    never = [name for name, n in zip(classes, counts, strict=True) if not n]
    if never:
        text = f"{counted(len(never), 'class', 'classes')} {where}: {few(never)}"
        findings.append(Finding("absent class", "warning", text, tuple(never)))
    scarce = [name for name, n in zip(classes, images, strict=True) if 0 < n < FEW]
    if scarce:
        text = f"{len(scarce)} of {len(classes)} classes are in fewer than {FEW} images"
        findings.append(Finding("small class", "warning", text, tuple(scarce)))
    return findings
