"""Damaged files of every kind that vitrail reads: is each refused in a sentence?

    python bench/fuzz.py [KIND ...] [--n 10000] [--seed 0] [--keep FOLDER] [--done FILE]

Cases are a function of (seed, kind, number). They run in forked children with limits of time and
memory; counted are those that were refused, read as before, read as something else, and what must
not be: a bare traceback, a hang, a crash, or another answer where a digest should have told.
Exit code 1 if there is any of these. `--keep` writes the files that did it, `--done` notes every
thousand cases in a file, with which a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutate
from kind import Kind
from kinds import KINDS

from vitrail.errors import VitrailError

# A busy machine takes several times as long.
SECONDS, MEMORY = 60.0, 3 << 30
BLOCK = 1000
WRONG = ("traceback", "hang", "crash", "other")


@dataclass(frozen=True)
class Case:
    """What became of one damaged file, and where a bare error came from."""

    number: int
    outcome: str
    said: str = ""


def damaged(kind: Kind, seeds: Sequence[bytes], seed: int, number: int) -> tuple[bytes, bool]:
    """The bytes of a case, and whether it was made to look genuine."""
    random = Random(f"{seed} {kind.name} {number}")
    data = random.choice(seeds)
    ways = (mutate.in_bytes, *kind.ways)
    for _ in range(4):
        way = random.choice(ways)
        try:
            found = way(random, data)
        except Exception:
            # Rules of a format need not fit every seed.
            continue
        if found != data:
            return found, way in kind.forges
    return data[:-1], False


def fuzz(kind: Kind, folder: Path, *, n: int, seed: int, first: int = 0) -> list[Case]:
    """The outcomes of cases `first` to `first + n`, in `folder`, which is made into what the kind
    needs.
    """
    files = kind.make(folder)
    seeds = [file.read_bytes() for file in files]
    known = [_answer(kind, files[0], one, folder) for one in seeds]
    found: list[Case] = []
    while len(found) < n:
        numbers = range(first + len(found), first + min(n, len(found) + BLOCK))
        found += _forked(kind, files[0], seeds, known, folder, seed, numbers)
    return found


def _answer(kind: Kind, file: Path, data: bytes, folder: Path) -> Any:
    file.write_bytes(data)
    return kind.read(file, folder)


def _forked(
    kind: Kind,
    file: Path,
    seeds: Sequence[bytes],
    known: Sequence[Any],
    folder: Path,
    seed: int,
    numbers: range,
) -> list[Case]:
    """The outcomes of some cases in one child; fewer than asked for where it had to be ended."""
    mine, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(mine)
            _limit()
            for number in numbers:
                data, forged = damaged(kind, seeds, seed, number)
                said = "\t".join(_try(kind, file, data, known, folder, forged))
                os.write(theirs, said.encode("utf-8", "replace")[:2000] + b"\n")
        finally:
            os._exit(0)
    os.close(theirs)
    text, since, hung = b"", time.monotonic(), False
    while True:
        ready, _, _ = select.select([mine], [], [], 0.5)
        if ready:
            if not (part := os.read(mine, 1 << 16)):
                break
            text, since = text + part, time.monotonic()
        elif time.monotonic() - since > SECONDS:
            hung = True
            os.kill(child, signal.SIGKILL)
            break
    os.close(mine)
    _, status = os.waitpid(child, 0)
    cases = []
    for number, line in zip(numbers, text.decode("utf-8", "replace").splitlines(), strict=False):
        outcome, _, said = line.partition("\t")
        cases.append(Case(number, outcome, said))
    if len(cases) < len(numbers):
        dead = "hang" if hung else "crash"
        cases.append(Case(numbers[len(cases)], dead, f"status {status}"))
    return cases


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _try(
    kind: Kind, file: Path, data: bytes, known: Sequence[Any], folder: Path, forged: bool
) -> tuple[str, str]:
    try:
        answer = _answer(kind, file, data, folder)
    except VitrailError as error:
        said = " ".join(str(error).split())
        return ("refused", said) if len(said) < 4000 else ("traceback", "an endless sentence")
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [f for f in last if "/vitrail/" in f.filename] or last
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
        return "traceback", f"{type(error).__name__} {where}: {' '.join(str(error).split())[:90]}"
    if any(answer == one for one in known):
        return "same", ""
    return ("other", "") if kind.strict and not forged else ("changed", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--done", type=Path)
    parser.add_argument("--sentences", action="store_true", help="print what was said")
    options = parser.parse_args()
    wrong = 0
    for name in options.kinds or KINDS:
        counts, faults = _known(options.done, name, options.seed)
        while (first := sum(counts.values())) < options.n:
            with tempfile.TemporaryDirectory() as folder:
                n = min(BLOCK, options.n - first)
                cases = fuzz(KINDS[name], Path(folder), n=n, seed=options.seed, first=first)
                bad = [case for case in cases if case.outcome in WRONG]
                if options.keep and bad:
                    _keep(KINDS[name], Path(folder), bad, options)
            if options.sentences:
                print(*sorted({case.said for case in cases if case.outcome == "refused"}), sep="\n")
            new = Counter(case.outcome for case in cases)
            told = Counter(f"{case.outcome} {case.said}" for case in bad)
            counts, faults = counts + new, faults + told
            if options.done:
                line = {"kind": name, "seed": options.seed, "counts": new, "faults": told}
                with options.done.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        print(name, ", ".join(f"{v} {k}" for k, v in counts.most_common()), flush=True)
        for said, many in faults.most_common(12):
            print(f"  {many} {said}", flush=True)
        wrong += sum(faults.values())
    raise SystemExit(wrong > 0)


def _known(done: Path | None, name: str, seed: int) -> tuple[Counter[str], Counter[str]]:
    """What an earlier run counted, and the faults that it found."""
    counts, faults = Counter[str](), Counter[str]()
    if done and done.is_file():
        for line in map(json.loads, done.read_text().splitlines()):
            if (line["kind"], line["seed"]) == (name, seed):
                counts.update(line["counts"])
                faults.update(line["faults"])
    return counts, faults


def _keep(kind: Kind, folder: Path, bad: Sequence[Case], options: argparse.Namespace) -> None:
    options.keep.mkdir(parents=True, exist_ok=True)
    again = folder / "again"
    again.mkdir()
    files = kind.make(again)
    seeds = [file.read_bytes() for file in files]
    for case in bad[:50]:
        data, _ = damaged(kind, seeds, options.seed, case.number)
        (options.keep / f"{kind.name}-{case.number}{files[0].suffix}").write_bytes(data)


if __name__ == "__main__":
    main()
