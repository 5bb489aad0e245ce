"""Next steps after a run, each with the exact command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vitrail.report.facts import Facts
from vitrail.report.taken import FILES

# How much more time the next, longer run is offered.
LONGER = 3


@dataclass(frozen=True)
class Step:
    """A command, and what it is good for."""

    purpose: str
    command: str


def steps(facts: Facts) -> list[Step]:
    """Return the next steps of a run, as commands for the folder in which it was started."""
    run = shlex.quote(folder(facts))
    chosen = next((e.name for e in facts.engines if e.counts and e.gain is not None), None)
    predict = f"vitrail predict {run} {FILES[facts.data.takes]}"
    predict += f" --engine {chosen}" if chosen else ""
    faster = f"vitrail export {run} --engine {chosen or 'openvino'} --int8"
    purpose = (
        "Make it faster: a file for another engine, in 8-bit integers where that loses little "
        f"{facts.measure}"
    )
    tests = [
        Step(
            f"Test it on other {facts.data.items} with known classes",
            f"vitrail evaluate {run} labelled/",
        ),
    ]
    longer = longer_run(facts)
    more = [Step("Search and train for longer", longer)] if longer else []
    if facts.data.maps:
        return [Step("Write masks of images, or folders of them", predict), *more]
    if facts.data.boxes:
        found = Step("Find objects in images, or folders of them", predict)
        again = "Test it on other images with boxes"
        return [found, Step(again, f"vitrail evaluate {run} labelled/"), *more]
    if facts.data.heard:
        engines = Step("Make it faster: a file for another engine, of spectrograms", faster)
        return [
            Step("Tell sounds, or folders of them", f"vitrail predict {run} sound.wav"),
            *([] if facts.data.takes == "waves" else [engines]),
            *more,
        ]
    if facts.data.takes != "images":
        return [Step(f"Classify {facts.data.items}", predict), *tests, *more]
    found = [
        Step("Classify images, or folders of them", predict),
        *([] if facts.data.several else tests),
        Step("See what it looks at in an image", f"vitrail explain {run} image.jpg"),
        Step(purpose, faster),
    ]
    return [*found, *more]


def folder(facts: Facts) -> str:
    """Return the run folder as the user wrote it, else the folder of the page."""
    return facts.run or _option(facts.command, "--out") or "."


def longer_run(facts: Facts) -> str:
    """Return the command of a fit with three times the time and a folder of its own, else ""."""
    words = _words(facts.command)
    if words[:2] != ["vitrail", "fit"] or not facts.budget.time_s:
        return ""
    minutes = max(1, round(facts.budget.time_s * LONGER / 60))
    given = folder(facts)
    name = "longer" if given == "." else f"{given.rstrip('/')}-longer"
    kept = _without(_without(words, "--time"), "--out")
    return shlex.join([*kept, "--time", f"{minutes}m", "--out", name])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that never ends: not a command that can be repeated
        return []


def _option(command: str, name: str) -> str:
    """Return the value of an option, as two words or as one with "="; empty if it is not there."""
    words = _words(command)
    for word, value in zip(words, [*words[1:], ""], strict=False):
        if word == name:
            return value
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return ""


def _without(words: list[str], name: str) -> list[str]:
    """Return the words without an option and its value."""
    kept, skip = [], False
    for word in words:
        if not skip and word != name and not word.startswith(f"{name}="):
            kept.append(word)
        skip = word == name
    return kept
