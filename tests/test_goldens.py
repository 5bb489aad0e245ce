"""Every model computes what its authors' implementation computes, to 1e-6 in float64.

A JSON file dropped into tests/goldens is a test. Its `create` key is the variant's name and
what is changed of it; `maps` names the outputs that are its features, channels first, and the
output "stem" is what an embedding cuts, before positions; `kept` names entries of the state that
the reference did not fill but computed, and where ours are found; `unread` names parts of names of
parameters that the reference has but never reads. Range images have `points`, so many each. A
network of series has the file's name in `create`, and `lengths` where its series are padded. An
output "at_row3_col5" is that of one pixel of the logits.
"""

from __future__ import annotations

import math
import re

import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.models.trunk.catalog import shapes

FILES = golden.files()
READ = {path: golden.read(path) for path in FILES}
# Parameters times values of the input, above which an answer in float64 takes seconds.
DEAR = 10**12


def cost(path):
    return READ[path]["params"] * math.prod(READ[path]["input_shape"])


def family(path):
    variant = models.catalog().get(READ[path]["create"][0])
    return variant.family if variant else READ[path]["create"][0]


def kind(path):
    """Networks of a kind have the same tensors but for numbers in their names, and sizes."""
    names = {re.sub(r"\d+", "0", name) for name, _ in READ[path]["state"]}
    return family(path), len(READ[path]["input_shape"]), frozenset(names)


# The least dear one of every kind is for every day, and what is not dear.
LEAST = {kind(path): path for path in sorted(FILES, key=cost, reverse=True)}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            p,
            id=p.stem,
            marks=() if cost(p) < DEAR or p in LEAST.values() else pytest.mark.slow,
        )
        for p in FILES
    ],
)
def test_golden(path):
    expected = READ[path]
    name, changes = expected["create"]
    if any(name in known() for known in (models.catalog, models.dense, models.scans)):
        config = models.resolve(name, **changes)
    else:
        config = models.config_from_json({"family": name, **changes})
    state = golden.state(expected)
    if kept := expected.get("kept", {}):
        own = vitrail.create(config).state_dict()
        state |= {theirs: own[ours].double() for theirs, ours in kept.items()}
    source = expected.get("table", expected["source"])
    model = vitrail.load(config, state, source=source, dtype=torch.float64)
    unread = {n for n in state for part in expected.get("unread", ()) if part in n}
    beside = sum(state[theirs].numel() for theirs in (*kept, *unread))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    # Some references register fixed tables as parameters, and count them.
    assert any(
        abs(count + beside - expected["params"]) <= 0.005 * expected["params"]
        for count in (trained, trained + fixed)
    )
    with torch.no_grad():
        x, *more = golden.inputs(expected)
        outputs = {"logits": model(x, *more)}
        for pooled in {"pooled", "representation"} & set(expected["outputs"]):
            outputs[pooled] = model.embedding(x, *more)
        if "points" in expected["outputs"]:
            points = outputs["logits"][..., None, None]
            outputs |= {"points": points, "features": model.maps(x)}
        if "stem" in expected["outputs"]:
            outputs["stem"] = model.embed.cut(x)
        if named := expected.get("maps"):
            maps = [m.movedim(-1, 1) for m in model.features(x)]
            outputs |= dict(zip(named, maps, strict=True))
        for place in expected["outputs"]:
            if pixel := re.fullmatch(r"at_row(\d+)_col(\d+)", place):
                outputs[place] = outputs["logits"][..., int(pixel[1]), int(pixel[2])]
        for extra in set(expected["outputs"]) - set(outputs):
            outputs[extra] = model.head.outputs(model.embedding(x))[extra]
    for key, figures in expected["outputs"].items():
        assert golden.deviation(outputs[key], figures) <= 1e-6, key


# Those that `identify` knows: image backbones of published sizes.
PUBLISHED = [
    p
    for p in FILES
    for name, changes in [READ[p]["create"]]
    if name in models.catalog() and set(changes) <= {"image", "frames", "classes"}
]


# One of each family is enough for every day.
FIRST = {family(p): p for p in reversed(PUBLISHED)}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=() if p in FIRST.values() else pytest.mark.slow)
        for p in PUBLISHED
    ],
)
def test_identified(path):
    """Names and shapes alone tell which published model a checkpoint is."""
    name, changes = READ[path]["create"]
    state = {n: torch.empty(shape, device="meta") for n, shape in READ[path]["state"]}
    found = models.identify_state(state)
    assert found is not None
    families = {models.catalog()[n].family for n in (found.name, *found.same)}
    assert models.catalog()[name].family in families
    assert shapes(found.config).keys() == shapes(models.resolve(name, **changes)).keys()
