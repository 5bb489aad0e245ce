"""The split: same everywhere, stratified, nothing twice, nothing that belongs together apart."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pictures import grey, photo, write_classes

import vitrail
from vitrail.data.gate import Inspection, inspect
from vitrail.data.opening import open_source
from vitrail.data.source import Item, Source
from vitrail.data.split import HeldBack, divide, unseal
from vitrail.errors import ConfigError, DataError
from vitrail.recipes.recipe import Data


def made(labels: list[int], twins: list[int] | None = None, parts=None, keys=None) -> Inspection:
    """An inspection of images that exist only by their digests."""
    n = len(labels)
    parts = parts or [None] * n
    keys = keys or [f"{i:04d}.png" for i in range(n)]
    items = tuple(Item(keys[i], labels[i], parts[i]) for i in range(n))
    classes = tuple("abcdefgh"[: max(labels) + 1])
    digests = np.random.RandomState(7).randint(0, 2**60, (n, 2)).astype(np.uint64)
    ones = np.ones((n, 2), np.int32)
    groups = np.arange(n) if twins is None else np.array(twins)
    source = Source("made", classes, items, "memory")
    rows, modes = np.arange(n), np.zeros(n, np.int8)
    return Inspection(source, rows, digests, ones, modes, ("grey",), groups, (), (), True)


def sides(split) -> dict[str, str]:
    named = {"train": split.train, "val": split.val, "test": unseal(split.test)}
    return {key: name for name, part in named.items() for key in part.keys}


def contents(part) -> set:
    return {part.source.read(item) for item in part.items}


def test_names_and_order_do_not_matter(tmp_path):
    write_classes(tmp_path / "one", {"a": 20, "b": 20})
    first = divide(inspect(open_source(tmp_path / "one"), progress=False))
    for path in sorted((tmp_path / "one").rglob("*.png")):
        target = tmp_path / "two" / path.parent.name / f"{int(path.stem) * 7 % 20}-new.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    second = divide(inspect(open_source(tmp_path / "two"), progress=False))
    for a, b in ((first.train, second.train), (first.val, second.val)):
        assert contents(a) == contents(b)
        assert [a.source.read(i) for i in a.items] == [b.source.read(i) for i in b.items]
        assert a.digest == b.digest
    assert first.test.digest == second.test.digest
    assert (len(first.train), len(first.val), len(first.test)) == (28, 6, 6)
    assert first.train.counts == (14, 14)
    other = divide(inspect(open_source(tmp_path / "one"), progress=False), seed=1)
    assert contents(other.train) != contents(first.train)


def test_the_split_of_the_sample_is_this_one_on_every_machine():
    split = divide(inspect(open_source("fashion-sample"), progress=False))
    assert split.train.counts == (510,) * 10
    assert split.val.counts == (90,) * 10
    assert split.test.counts == (100,) * 10
    assert (split.train.digest, split.val.digest, split.test.digest) == (
        "24ba461a5a31a9707d8b04ec361f69ac",
        "4d9ac9428a5c490a4469262a37601d96",
        "1729310fe19ab869773d7498611d84f9",
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=8, max_size=120),
    st.integers(0, 3),
)
def test_nothing_is_lost_twice_or_torn_apart(rows, seed):
    labels, groups = ([row[i] for row in rows] for i in (0, 1))
    units = {k: {g for label, g in rows if label == k} for k in set(labels)}
    labels = [sorted(units).index(label) for label in labels]
    inspection = made(labels, groups)
    try:
        split = divide(inspection, seed=seed)
    except DataError as error:
        assert "missing from a part" in str(error)
        mixed = {g for a, g in rows for b, h in rows if g == h and a != b}
        assert any(len(found) < 3 or found & mixed for found in units.values())
        return
    assert all(map(all, (split.train.counts, split.val.counts, split.test.counts)))
    side = sides(split)
    assert len(side) == len(rows)
    assert len(split.train) + len(split.val) + len(split.test) == len(rows)
    for group in set(groups):
        assert len({side[f"{i:04d}.png"] for i in range(len(rows)) if groups[i] == group}) == 1
    assert all(split.train.counts)


@pytest.mark.parametrize(("n", "expected"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (7, (5, 1, 1))])
def test_small_classes_have_one_of_each(n, expected):
    split = divide(made([0] * n + [1] * 20))
    assert (split.train.counts[0], split.val.counts[0], split.test.counts[0]) == expected
    assert not split.findings


@pytest.mark.parametrize(("enough", "each", "held"), [(48, 2, 48), (48, 20, 80), (5000, 20, 96)])
def test_no_more_is_held_back_than_tells_models_apart(enough, each, held, monkeypatch):
    monkeypatch.setattr("vitrail.data.split.ENOUGH", enough)
    monkeypatch.setattr("vitrail.data.split.ENOUGH_EACH", each)
    images = made([0, 1, 2, 3] * 160)
    split = divide(images)
    assert (len(split.train), len(split.val), len(split.test)) == (640 - 2 * held, held, held)
    assert len(divide(images, test=0.5).test) == 320
    own = Data("x")
    assert len(divide(images, val=own.val, test=own.test).test) == held


def test_twins_stay_on_one_side_with_large_groups_too():
    labels = [0] * 60 + [1] * 60
    twins = [i // 6 for i in range(120)]
    split = divide(made(labels, twins))
    assert all(split.val.counts)
    assert all(split.test.counts)
    assert min(split.train.counts) >= 36


def test_group_by(tmp_path):
    keys = [f"{'ab'[i % 2]}/subject{i // 8}_{i}.png" for i in range(80)]
    inspection = made([i % 2 for i in range(80)], keys=keys)
    split = divide(inspection, group_by=r"subject(\d+)_")
    side = sides(split)
    for subject in range(10):
        assert len({where for key, where in side.items() if f"subject{subject}_" in key}) == 1
    assert min(split.train.counts) >= 24
    assert len(split.test) == len(split.val) == 8
    assert sides(divide(inspection)) != side
    with pytest.raises(DataError, match=r"'xyz' is not found in 80 of 80 paths, first 'a/subj"):
        divide(inspection, group_by="xyz")
    with pytest.raises(ConfigError, match=r"group-by is '\(', which is not a regular expression"):
        divide(inspection, group_by="(")


def test_groups_across_given_parts_are_a_leak():
    keys = [f"s{i // 4}_{i}.png" for i in range(16)]
    parts = ["train"] * 6 + ["test"] * 2 + ["train"] * 8
    split = divide(made([0, 1] * 8, parts=parts, keys=keys), group_by=r"s\d+_")
    (leak,) = [finding for finding in split.findings if finding.kind == "group leak"]
    assert leak.keys == ("s1_",)


def test_given_parts_are_kept_and_the_missing_drawn():
    labels = [0, 1] * 30
    for given_parts, expected in (
        (["train"] * 40 + ["test"] * 20, (34, 6, 20)),
        (["train"] * 40 + ["val"] * 20, (34, 20, 6)),
        (["train"] * 30 + ["val"] * 20 + ["test"] * 10, (30, 20, 10)),
        (["train"] * 60, (42, 8, 10)),
    ):
        split = divide(made(labels, parts=given_parts))
        sizes = len(split.train), len(split.val), len(split.test)
        assert sum(sizes) == 60
        assert abs(np.array(sizes) - expected).max() <= 2
        side = sides(split)
        for i, part in enumerate(given_parts):
            assert side[f"{i:04d}.png"] == part or part == "train"


@pytest.mark.parametrize(
    ("labels", "twins", "parts", "words"),
    [
        ([0] * 2 + [1] * 5, None, None, "1 of 2 classes is missing from a part, 'a' from "
         r"validation \(2 images\): give each at least three images, or remove the class"),
        ([0, 0, 1, 1], None, None, r"2 of 2 .*, 'a' from validation \(2 images\); 'b' from valid"),
        ([0] * 6 + [1] * 6, [0] * 6 + [*range(6, 12)], None, r"'a' from validation and test "
         r"\(6 images, 1 apart from those that stay together\): give each at least three images "
         r"that are not all copies of one picture, let copies fall anywhere \(--duplicates keep\)"),
        ([0, 0, 0, 1, 1], None, ["train"] * 3 + ["test"] * 2, "'a' from test .3 images.; 'b' from "
         "training and validation .2 images.: the data gives the parts training and test, so add"),
    ],
)  # fmt: skip
def test_a_class_that_would_miss_from_a_part_is_an_error(labels, twins, parts, words):
    with pytest.raises(DataError, match=words):
        divide(made(labels, twins, parts=parts))


def test_all_missing_classes_are_told_at_once():
    labels = [0] * 9 + [label for label in range(1, 8) for _ in range(2)]
    with pytest.raises(DataError, match=r"7 of 8 classes are .*'b' from .*'f' from .* and 2 more"):
        divide(made(labels))


def test_groups_of_the_user_that_swallow_a_class_are_the_reason_told():
    keys = [f"{'one' if i < 6 else i}-.png" for i in range(12)]
    with pytest.raises(DataError, match=r"that are not all of one group, or remove the class$"):
        divide(made([0] * 6 + [1] * 6, keys=keys), group_by=r"^\w+")


def test_copies_are_kept_grouped_or_dropped():
    labels, twins = [0] * 20 + [1] * 20, [i // 2 for i in range(40)]
    inspection = made(labels, twins)
    grouped = sides(divide(inspection))
    assert all(grouped[f"{i:04d}.png"] == grouped[f"{i + 1:04d}.png"] for i in range(0, 40, 2))
    kept = divide(inspection, duplicates="keep")
    assert len(sides(kept)) == 40
    assert any(
        sides(kept)[f"{i:04d}.png"] != sides(kept)[f"{i + 1:04d}.png"] for i in range(0, 40, 2)
    )
    assert [(f.kind, f.message[:14]) for f in kept.findings] == [("kept", "20 copies kept")]
    dropped = divide(inspection, duplicates="drop")
    assert {int(key[:4]) // 2 for key in sides(dropped)} == set(range(20))
    assert len(sides(dropped)) == 20
    assert [(f.kind, f.message) for f in dropped.findings] == [
        ("dropped", "20 copies left out: one of each stays")
    ]
    with pytest.raises(ConfigError, match="duplicates is 'all': expected keep, group or drop"):
        divide(inspection, duplicates="all")


def test_of_copies_with_two_labels_none_stays_and_of_two_parts_the_held_back():
    labels = [0] * 10 + [1] * 10
    twins = list(range(20))
    twins[10] = 0  # of another class
    twins[2] = 1  # of another part
    parts = ["train"] * 20
    for i in (2, 3, 12, 13):
        parts[i] = "test"
    split = divide(made(labels, twins, parts=parts), duplicates="drop")
    side = sides(split)
    assert not {"0000.png", "0010.png", "0001.png"} & side.keys()
    assert side["0002.png"] == "test"
    assert {f.message for f in split.findings} == {
        "1 copy left out: one of each stays", "2 copies left out: their labels differ",
    }  # fmt: skip


def test_several_labels_are_spread_over_the_parts():
    random = np.random.RandomState(0)
    marks = [(0, *np.flatnonzero(random.rand(3) < 0.3).tolist()) for _ in range(200)]
    marks = [(0, *(label + 1 for label in rest)) for _, *rest in marks]
    items = tuple(Item(f"{i:04d}.png", 0, None, m) for i, m in enumerate(marks))
    source = Source("made", tuple("wxyz"), items, "memory", several=True)
    inspection = replace(made([0] * 200), source=source)
    split = divide(inspection)
    assert inspection.counts[0] == 200
    assert inspection.counts[1:] == tuple(sum(k in m for m in marks) for k in (1, 2, 3))
    assert len(split.train) + len(split.val) + len(split.test) == 200
    assert (len(split.val), len(split.test)) == (split.val.counts[0], split.test.counts[0])
    assert split.val.labels.shape == (len(split.val), 4)
    assert [tuple(np.flatnonzero(row)) for row in split.val.labels] == [
        item.labels for item in split.val.items
    ]
    for part in (split.val, split.test):
        for label in range(1, 4):
            assert 0.08 < part.counts[label] / inspection.counts[label] < 0.22


@pytest.mark.parametrize(("val", "test"), [(0, 0.1), (0.6, 0.5), (0.1, -1)])
def test_fractions(val, test):
    with pytest.raises(ConfigError, match="both are fractions above 0, together below 1"):
        divide(made([0, 1] * 10), val=val, test=test)


def test_channels_follow_the_colours(tmp_path):
    write_classes(tmp_path / "grey", {"a": 5, "b": 5}, grey)
    write_classes(tmp_path / "colour", {"a": 5, "b": 5}, photo)
    for name, channels in (("grey", 1), ("colour", 3)):
        inspection = inspect(open_source(tmp_path / name), progress=False)
        assert divide(inspection).channels == channels


def test_the_test_part_is_counted_and_not_read():
    held_back = divide(made([0, 1] * 20)).test
    assert isinstance(held_back, HeldBack)
    assert (len(held_back), held_back.counts) == (6, (3, 3))
    public = {name for name in dir(held_back) if not name.startswith("_")}
    assert public == {"classes", "counts", "digest"}
    assert len(unseal(held_back)) == 6


def test_only_the_split_knows_where_the_seal_is():
    root = Path(vitrail.__file__).parent
    users = {
        path.name for path in root.rglob("*.py") if re.search(r"\b_sealed\b", path.read_text())
    }
    assert users == {"split.py"}
