"""Searches that machines share: processes on one database, one of which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import postgres

from vitrail.errors import RunError
from vitrail.run import storage
from vitrail.run.storage import check_reachable, open_storage
from vitrail.search.board import Board, Pulse
from vitrail.search.costs import Cost
from vitrail.search.hunt import Hunt
from vitrail.search.spaces import Images, space_of
from vitrail.search.strategies import Evolve, Found, Ground

QUICK = Pulse(beat_s=0.1, silence_s=1.0, look_s=0.05)
STRATEGY = Evolve(5, 2, 2, 2, generations=2)
# What a machine does: it writes down each candidate that it begins, and may hang at one.
MACHINE = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_sharing import GROUND, QUICK, STRATEGY, judged
from vitrail.search.hunt import Hunt
url, owner, pause, hang, log = sys.argv[1:]
begun = []
def judge(genes):
    begun.append(genes)
    with Path(log).open("a") as file:
        print(*genes, file=file)
    time.sleep(float(pause) if len(begun) < int(hang) else 600)
    return judged(genes)
Hunt(url, "shared", owner, pulse=QUICK).run(STRATEGY, GROUND, judge, enough=lambda found: False)
"""


def judged(genes):
    """A score that one can climb: it is best where all genes are 2."""
    return Found(genes, 1 / (1 + sum((g - 2) ** 2 for g in genes)), 0.0, Cost(1, 1))


GROUND = Ground(space_of("autoformer", Images((28, 28), 1, 10)), lambda genes: True, seed=3)


def machine(url: str, owner: str, log: Path, *, pause: float, hang: int = 99) -> subprocess.Popen:
    code = MACHINE.format(tests=str(Path(__file__).parent))
    words = [url, owner, str(pause), str(hang), str(log)]
    return subprocess.Popen([sys.executable, "-c", code, *words])


def shared_search(url: str, folder: Path) -> None:
    """Two machines search together, one is killed in the middle of a candidate: the other ends
    with what one machine alone would have found, and nothing that was done is done again."""
    alone = Hunt(folder / "alone.sqlite", "alone").run(
        STRATEGY, GROUND, judged, enough=lambda found: False
    )
    logs = [folder / "first", folder / "second"]
    first = machine(url, "first", logs[0], pause=0.1, hang=3)
    second = machine(url, "second", logs[1], pause=0.3)
    try:
        end = time.monotonic() + 120
        while not logs[0].exists() or len(logs[0].read_text().splitlines()) < 3:
            assert time.monotonic() < end and first.poll() is None
            time.sleep(0.05)
        first.kill()
        assert second.wait(120) == 0
    finally:
        for one in (first, second):
            one.kill()
            one.wait()
    begun = [log.read_text().splitlines() for log in logs]
    lost = begun[0][2]
    assert lost in begun[1] and not {*begun[0][:2]} & {*begun[1]}
    assert len(begun[1]) == len({*begun[1]}) and len(begun[0]) == 3
    assert Hunt(url, "shared", "third").found() == alone


@pytest.mark.slow
def test_machines_share_a_file(tmp_path):
    shared_search(f"sqlite:///{tmp_path / 'shared.sqlite'}", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed")
def test_machines_share_a_server(tmp_path):
    with postgres.server() as url:
        check_reachable(url)
        shared_search(url, tmp_path)


def test_the_first_to_take_a_task_has_it(tmp_path):
    """Of two that take a task one has it, until nothing is heard of it; then it is too late."""
    path = tmp_path / "shared.sqlite"
    storage, url = open_storage(path), f"sqlite:///{path}"
    pulse = Pulse(beat_s=60, silence_s=0.1, look_s=0.01)
    one, other = (Board(url, "board", name, pulse, storage) for name in ("one", "other"))
    with one.take("task") as mine, other.take("task") as theirs:
        assert mine is not None and theirs is None
        time.sleep(0.2)
        with other.take("task") as theirs:
            assert theirs is not None and theirs.finish("other")
        assert not mine.finish("one")
    assert one.known("task") == other.known("task") == "other"
    assert one.once("task", lambda: "again") == "other"
    with one.take("task") as mine:
        assert mine is None


def test_what_is_not_finished_is_free_again(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    one, other = Board(url, "board", "one"), Board(url, "board", "other")
    with pytest.raises(KeyboardInterrupt), one.take("task"):
        raise KeyboardInterrupt
    with other.take("task") as theirs:
        assert theirs is not None
        # Whoever begins again gives up what it had, and nothing of others.
        with Board(url, "board", "one").take("task") as mine:
            assert mine is None
        with Board(url, "board", "other").take("task") as again:
            assert again is not None


def test_a_database_that_cannot_be_reached_says_so_first(tmp_path):
    for url, said in (
        ("postgresql://me:s3cret@127.0.0.1:1/x", "127.0.0.1"),
        ("nosuch://machine/x", "nosuch"),
        (f"sqlite:///{tmp_path}/missing/x.sqlite", "unable to open database file"),
    ):
        with pytest.raises(RunError, match="cannot be opened") as caught:
            check_reachable(url)
        assert said in str(caught.value) and "s3cret" not in json.dumps(str(caught.value))


def test_a_url_is_asked_by_the_driver_that_is_installed(monkeypatch):
    monkeypatch.setattr(storage, "find_spec", lambda name: name == "psycopg2" or None)
    assert storage.driven("postgresql://me@db:5/x") == "postgresql+psycopg2://me@db:5/x"
    for url in ("postgresql+asyncpg://db/x", "mysql://db/x", "sqlite:///x", "nonsense"):
        assert storage.driven(url) == url
