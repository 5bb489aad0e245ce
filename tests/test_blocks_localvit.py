"""LocalViT's feed-forward with each activation, against the authors' outputs."""

import pytest
import torch
from support import golden

import vitrail
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.models.localvit import LocalFeedForward


@pytest.mark.parametrize(
    ("name", "act"),
    [("relu6", "relu6"), ("hs_se", "hs+se"), ("hs_eca", "hs+eca"), ("hs_ecah", "hs+ecah")],
)
def test_feed_forward(name, act):
    expected = golden.read(golden.FOLDER / "blocks" / f"localvit_ff_{name}.json")
    first, last = ("conv.6.", "conv.7.") if act == "relu6" else ("conv.7.", "conv.8.")
    rows = [
        ("conv.0.", "enter.conv."),
        ("conv.1.", "enter.norm."),
        ("conv.3.", "local.conv."),
        ("conv.4.", "local.norm."),
        ("conv.6.fc.0.", "gate.fc1."),
        ("conv.6.fc.2.", "gate.fc2."),
        ("conv.6.conv.", "gate.conv."),
        (first, "leave.conv."),
        (last, "leave.norm."),
    ]
    layer = LocalFeedForward(24, 96, act, 4).double().eval()
    state = rename(golden.state(expected), rows)
    assert not layer.load_state_dict(state, strict=False).unexpected_keys
    x = golden.image(expected["input_shape"])
    b, c, h, w = x.shape
    tokens = torch.cat([torch.ones(b, 1, c, dtype=x.dtype), x.flatten(2).mT], 1)
    with torch.no_grad():
        y = layer(tokens, (h, w))
    assert torch.equal(y[:, 0], tokens[:, 0])  # the class token passes by
    found = y[:, 1:].mT.unflatten(2, (h, w))
    assert golden.deviation(found, expected["outputs"]["y"]) <= 1e-6


def test_what_cannot_be_built():
    with pytest.raises(ConfigError, match="act is 'gelu': expected relu6, hs"):
        vitrail.create("localvit_t", act="gelu")
    with pytest.raises(ConfigError, match="host is 'swim': expected deit"):
        vitrail.create("localvit_t", host="swim")
