"""No ratio to the fastest peer falls by more than 15 % below bench/baseline.json.

Run by `make bench-check` on a quiet machine; ratios, not times, so that another machine may do.
A ratio that seems to have fallen is measured twice more, and the best counts: noise lowers
ratios as often as it raises them, a slower model lowers all three.
"""

import json
from pathlib import Path

import pytest

from vitrail.bench.contests import Settings, contest

BASELINE = json.loads((Path(__file__).parent / "baseline.json").read_text())
FALL, TRIES = 0.85, 3


@pytest.mark.parametrize("variant", BASELINE["ratios"])
def test_ratio(variant):
    expected = BASELINE["ratios"][variant]
    settings = Settings(batches=tuple(map(int, expected)), seconds=1.0)
    best: dict[str, float] = dict.fromkeys(expected, 0.0)
    for _ in range(TRIES):
        for row in contest(variant, settings):
            assert row.best is not None, row.notes
            best[str(row.batch)] = max(best[str(row.batch)], row.best.times)
        if all(best[batch] >= FALL * ratio for batch, ratio in expected.items()):
            return
    pytest.fail(f"{variant}: {best} where {expected} was measured before")
