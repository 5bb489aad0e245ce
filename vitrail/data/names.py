"""Names as people write them, compared as people read them, and told a few at a time."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from vitrail.data.source import Finding, PartName
from vitrail.units import counted, shortened

_SHOWN = 5


def normal(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), with single spaces between its words."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def plain_label(label: str) -> str:
    """Return a label in normal form; whole numbers written with decimals are written without."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", normal(label))


def folded(name: str) -> str:
    """Return the normal form without regard to upper and lower case."""
    return normal(name).casefold()


def few(names: Sequence[str], most: int = _SHOWN) -> str:
    """Say the first names in quotes and how many more there are: "'a', 'b' and 7 more"."""
    shown = [repr(shortened(name, 60)) for name in names[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest else "")


def alike(names: Sequence[str]) -> list[str]:
    """Return which names people may mean as one, as "a = b": those that are equal but for case, the
    form of letters, what stands between words, and zeros before a number. Single letters that
    differ in case alone are those of an alphabet.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", plain)
        groups.setdefault(re.sub(r"(?<![\d.])0+(?=\d)", "", plain), []).append(name)
    return [
        " = ".join(shortened(name, 40) for name in group)
        for group in groups.values()
        if len(group) > 1 and not all(len(name) == 1 and name.isascii() for name in group)
    ]


def one_spelling(
    rows: Iterable[tuple[PartName | None, str]],
) -> tuple[dict[str, str], list[Finding]]:
    """Return the class that each written name means, and findings on names that differ in case.

    `rows` has the part and the written class of every image. Names that are equal but for case
    are one class, spelled as most training images have it; single letters that stand side by
    side in one part ("a" and "A" of an alphabet) remain two.
    """
    written = Counter(rows)
    images: dict[str, Counter[str]] = {}
    sides: dict[str, set[tuple[PartName, str]]] = {}
    for (part, name), n in written.items():
        side: PartName = part or "train"
        spelled = normal(name)
        weight = n * (1 << 40 if side == "train" else 1)
        images.setdefault(spelled.casefold(), Counter())[spelled] += weight
        sides.setdefault(spelled.casefold(), set()).add((side, spelled))
    meant, merged, apart = {}, [], []
    for key, spellings in images.items():
        best = min(spellings, key=lambda name: (-spellings[name], name))
        together = len(sides[key]) > len({side for side, _ in sides[key]})
        letters = together and all(len(name) == 1 for name in spellings)
        for name in spellings:
            meant[name] = name if letters else best
        if len(spellings) > 1:
            group = [best, *sorted(set(spellings) - {best})]
            (apart if letters else merged).append(" = ".join(group))
    findings = []
    if merged:
        text = f"{counted(len(merged), 'class', 'classes')} spelled in upper and lower case taken "
        text += f"as one each ({few(merged)}): rename a class that is another"
        findings.append(Finding("case", "warning", text, tuple(sorted(merged))))
    if apart:
        text = f"classes that differ in case alone kept apart ({few(apart)})"
        findings.append(Finding("case", "info", text, tuple(sorted(apart))))
    return {name: meant[normal(name)] for _, name in written}, findings
