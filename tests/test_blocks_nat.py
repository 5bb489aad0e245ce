"""NAT: small maps take part in attention with their padding; what cannot be built."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.neighborhood import Neighborhood
from vitrail.models import dinat, nat
from vitrail.models.nat import Config, NeighborhoodAttention
from vitrail.models.trunk.positions import resampled

SMALL = Config(
    dim=16, depths=(1, 2), heads=(2, 4), kernel=3, dilations=(1, 2), image=(32, 32), classes=3
)


def test_padding_of_small_maps_is_attended_to():
    """A map of 4x3 under kernel 3 and dilation 2 is padded to 6x6 before q, k and v."""
    torch.manual_seed(0)
    module = NeighborhoodAttention(8, 2, Neighborhood(3, 2)).double().eval()
    with torch.no_grad():
        module.bias.table.normal_()
        module.qkv.bias.normal_()
        x = torch.randn(2, 4, 3, 8, dtype=torch.float64)
        assert torch.allclose(module(x), module(F.pad(x, (0, 0, 0, 3, 0, 2)))[:, :4, :3])


def test_a_table_moves_to_another_kernel_and_back():
    state = vitrail.create(SMALL).state_dict()
    state = {k: v.double() for k, v in state.items()}
    wide = resampled(state, SMALL, replace(SMALL, kernel=5), nat)
    for name, table in wide.items():
        if name.endswith("bias.table"):
            assert table.shape[1:] == (9, 9)
            same = resampled({name: table}, replace(SMALL, kernel=5), SMALL, nat)[name]
            assert same.shape == state[name].shape
        else:
            assert table is state[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel": 4}, "kernel"),
        ({"patch": 3}, "patch is 3, dim 16"),
        ({"heads": (3, 4)}, "dim 16 does not divide into 3 heads"),
        ({"dilations": (1,)}, "expected as many values"),
        ({"dilations": (0, 1)}, "expected at least 1"),
    ],
)
def test_what_cannot_be_built(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(SMALL, **changes)


def test_dinat_on_other_skeletons():
    flat = vitrail.create("nat_iso_small", image=(64, 96)).eval()
    swin = vitrail.create("dinat_s_tiny", image=(64, 96)).eval()
    image = torch.zeros(1, 3, 70, 100)
    with torch.no_grad():
        assert [tuple(x.shape[1:3]) for x in flat.features(image)] == [(5, 7)]
        assert tuple(swin.features(image)[0].shape[1:3]) == (18, 25)
    assert dinat.MODEL is type(flat)
