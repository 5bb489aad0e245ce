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

import re

import pytest
import torch
from support import golden

import vitrail
from vitrail import models

FILES = golden.files()


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_golden(path):
    expected = golden.read(path)
    name, changes = expected["create"]
    if any(name in known() for known in (models.catalog, models.dense, models.scans)):
        config = models.resolve(name, **changes)
    else:
        config = models.config_from_json({"family": name, **changes})
    state = golden.state(expected)
    own = vitrail.create(config).state_dict()
    state |= {theirs: own[ours].double() for theirs, ours in expected.get("kept", {}).items()}
    source = expected.get("table", expected["source"])
    model = vitrail.load(config, state, source=source, dtype=torch.float64)
    unread = {n for n in state for part in expected.get("unread", ()) if part in n}
    kept = sum(state[theirs].numel() for theirs in (*expected.get("kept", {}), *unread))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    # Some references register fixed tables as parameters, and count them.
    assert any(
        abs(count + kept - expected["params"]) <= 0.005 * expected["params"]
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
    for name, changes in [golden.read(p)["create"]]
    if name in models.catalog() and set(changes) <= {"image", "frames", "classes"}
]


# One of each family is enough for every day.
FIRST = {models.catalog()[golden.read(p)["create"][0]].family: p for p in reversed(PUBLISHED)}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=() if p in FIRST.values() else pytest.mark.slow)
        for p in PUBLISHED
    ],
)
def test_identified(path):
    """Names and shapes alone tell which published model a checkpoint is."""
    expected = golden.read(path)
    name, changes = expected["create"]
    found = vitrail.identify(golden.state(expected))
    families = {models.catalog()[n].family for n in (found.name, *found.same)}
    assert models.catalog()[name].family in families
    assert models.create(found.config).state_dict().keys() == (
        models.create(name, **changes).state_dict().keys()
    )
