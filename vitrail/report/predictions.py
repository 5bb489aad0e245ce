"""Predictions as JSON, as comma-separated values, and on the terminal."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitrail.data.source import NOUNS
from vitrail.report.text import cell, plain

Words = tuple[str, str]
IMAGES = NOUNS["images"]
UNFAMILIAR = "unlike all {} that the run learned from"

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vitrail.jobs.prediction import Prediction


def as_json(predictions: Sequence[Prediction]) -> str:
    """Return a JSON list, one object a file: path, and classes with probabilities or an error.

    Where a threshold is in force, "none_of_these" says whether the likeliest class misses it. In a
    run of several labels "labels" has those that reach their thresholds. "unfamiliar", where the
    run can know, says that the image looks unlike all that it learned from. "setting" is that of
    the run's dial where it was turned, "seconds" what the answer took where there was a deadline.
    A run of masks has "shares" of pixels by class in place of "classes", and the files "mask" and
    "overlay"; one of boxes has "boxes", each with class, score and corners in pixels, and the files
    "file" and "drawn"; one of lidar scans "shares" of points, and the files "labels" and "picture".
    """
    rows = [{"path": p.path} | _turned(p) | answered(p) for p in predictions]
    return shown_json(rows)


def shown_json(value: Any) -> str:
    """Return plain data as JSON to print: readable, and without a sign that a terminal obeys."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(f"\\u{ord(sign):04x}" if _obeyed(sign) else sign for sign in text)


def _turned(prediction: Prediction) -> dict[str, Any]:
    told = {"setting": prediction.setting, "seconds": prediction.seconds}
    return {name: value for name, value in told.items() if value is not None}


def answered(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction in JSON, without its path."""
    if prediction.error:
        return {"error": prediction.error}
    if prediction.mask is not None:
        return _mask(prediction)
    if prediction.points is not None:
        return _points(prediction)
    if prediction.boxes is not None:
        return _boxes(prediction)
    ranked = {"classes": _shares(prediction.ranked)}
    if prediction.chosen is not None:
        ranked = {"labels": _shares(prediction.chosen), **ranked}
    if prediction.unfamiliar is not None:
        ranked = {"unfamiliar": prediction.unfamiliar, **ranked}
    if prediction.threshold is None:
        return ranked
    return {
        "none_of_these": prediction.none_of_these,
        "threshold": prediction.threshold,
        **ranked,
    }


def _mask(prediction: Prediction) -> dict[str, Any]:
    """Return the share of pixels of each class, and the files of the mask."""
    told: dict[str, Any] = {}
    if prediction.written is not None:
        told = prediction.written.to_json()
    if prediction.unfamiliar is not None:
        told["unfamiliar"] = prediction.unfamiliar
    shares = [{"class": name, "share": round(share, 6)} for name, share in prediction.ranked]
    return {**told, "shares": shares}


def _points(prediction: Prediction) -> dict[str, Any]:
    """Return the share of a scan's points of each class, and the files of its labels."""
    told: dict[str, Any] = {}
    if prediction.written is not None:
        files = prediction.written.to_json()
        told = {"labels": files["mask"], "picture": files["overlay"]}
    shares = [{"class": name, "share": round(share, 6)} for name, share in prediction.ranked]
    return {**told, "shares": shares}


def _boxes(prediction: Prediction) -> dict[str, Any]:
    """Return the boxes above the threshold, and the files of them."""
    told: dict[str, Any] = {"threshold": prediction.threshold}
    if prediction.written is not None:
        told |= prediction.written.to_json()
    if prediction.unfamiliar is not None:
        told["unfamiliar"] = prediction.unfamiliar
    return {**told, "boxes": [one.to_json() for one in prediction.boxes or ()]}


def _shares(ranked: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "p": round(share, 6)} for name, share in ranked]


def _obeyed(sign: str) -> bool:
    """Return whether a terminal obeys a sign instead of showing it;
    newlines part the lines of JSON.
    """
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return ord(sign) < 0x10000 and sign != "\n" and unicodedata.category(sign) in kinds


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Return comma-separated values: path, error, then a class and its probability for each rank.

    Where a threshold is in force, the column "answer" is the likeliest class or "none of these".
    In a run of several labels it has all of an image, "cat; dog" or "none", and the ranks are those
    of these labels alone. Where the run can know, the column "unfamiliar" has "yes" for images that
    look unlike all that it learned from. Names are plain text, which a spreadsheet does not
    compute.
    """
    shown = [p.ranked if p.chosen is None else p.chosen for p in predictions]
    most = max(map(len, shown), default=0)
    judged = any(p.threshold is not None or p.chosen is not None for p in predictions)
    known = any(p.unfamiliar is not None for p in predictions)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = [name for i in range(1, most + 1) for name in (f"class_{i}", f"p_{i}")]
    more = [*(["answer"] if judged else []), *(["unfamiliar"] if known else [])]
    writer.writerow(["path", "error", *more, *ranks])
    for p, ranked in zip(predictions, shown, strict=True):
        answer = [cell(p.answer or "")] if judged else []
        answer += ["yes" if p.unfamiliar else "no"] if known else []
        cells = [value for name, share in ranked for value in (cell(name), f"{share:.6f}")]
        writer.writerow([cell(p.path), cell(p.error or ""), *answer, *cells])
    return text.getvalue()


def as_table(predictions: Sequence[Prediction], words: Words = IMAGES) -> Table:
    """Return a table to print: the likeliest class stands out, the others follow.

    `words` are what one of the things that were asked about is called, and several.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    several = any(p.chosen is not None for p in predictions)
    found = any(p.boxes is not None for p in predictions)
    titles = (words[0], "found", "", "") if found else (words[0], "labels", "", "others")
    titles = titles if several or found else (words[0], "class", "sure", "then")
    for title in titles:
        table.add_column(title, justify="right" if title == "sure" else "left", no_wrap=True)
    for p in predictions:
        first, *others = _warned(p, words)
        table.add_row(Text(plain(p.path)), first, *others)
    return table


def show(predictions: Sequence[Prediction], console: Console, words: Words = IMAGES) -> None:
    """Print a table where it fits, else each path on a line of its own; nothing is cut."""
    from rich.text import Text

    table = as_table(predictions, words)
    unbounded = console.options.update(max_width=100_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for p in predictions:
        console.print(Text(plain(p.path)), soft_wrap=True)
        console.print(
            Text("  ").join([Text(), *(t for t in _warned(p, words) if t)]), soft_wrap=True
        )


def _warned(prediction: Prediction, words: Words) -> tuple[Text, Text, Text]:
    """Return the same parts, with a warning where the run never saw such an image."""
    from rich.text import Text

    first, share, rest = _parts(prediction)
    if prediction.unfamiliar:
        warning = Text(UNFAMILIAR.format(words[1]), style="yellow")
        rest = Text("; ").join([warning, rest]) if rest else warning
    return first, share, rest


def _parts(prediction: Prediction) -> tuple[Text, Text, Text]:
    """Return the answer, how sure it is, and what else it could be."""
    from rich.text import Text

    if prediction.error:
        return Text(), Text(), Text(plain(prediction.error), style="red")
    if prediction.boxes is not None:
        return Text(plain(prediction.answer or "")), Text(), Text()
    if prediction.chosen is not None:
        return _labels(prediction, prediction.chosen)
    ranked = [(plain(name), f"{share:.1%}") for name, share in prediction.ranked]
    if prediction.none_of_these:
        rest = ", ".join(f"{name} {share}" for name, share in ranked)
        return Text(prediction.answer or "", style="yellow"), Text(), Text(rest, style="dim")
    (first, share), *others = ranked
    rest = ", ".join(f"{name} {share}" for name, share in others)
    return Text(first), Text(share), Text(rest, style="dim")


def _labels(prediction: Prediction, chosen: Sequence[tuple[str, float]]) -> tuple[Text, Text, Text]:
    """Return all labels of an image with their probabilities, and the likeliest of the others."""
    from rich.text import Text

    told = [", ".join(f"{plain(name)} {share:.1%}" for name, share in some) for some in (
        chosen, [one for one in prediction.ranked if one not in chosen]
    )]  # fmt: skip
    if not chosen:
        return Text(prediction.answer or "", style="yellow"), Text(), Text(told[1], style="dim")
    return Text(told[0]), Text(), Text(told[1], style="dim")
