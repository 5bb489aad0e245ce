"""MLP-Mixer against timm with the same random weights, and the two forms of the authors' files."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from agree import difference, scatter
from support.peers import timm
from torch import nn

import vitrail
from vitrail.errors import CheckpointError
from vitrail.models.mlp_mixer import Config

SMALL = Config(dim=48, depth=2, tokens=24, hidden=192, patch=8, image=(32, 48), classes=7)


def test_timm():
    # timm computes the exact GELU by default; the authors' code, and ours, the tanh form.
    peer = timm.models.MlpMixer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        num_blocks=2,
        num_classes=7,
        act_layer=partial(nn.GELU, approximate="tanh"),
    )
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6


def authors(state):
    """Our state under the names and in the axes of the authors' released files."""
    found = {}
    for name, value in state.items():
        name = re.sub(r"^blocks\.(\d+)\.", r"MixerBlock_\1/", name)
        for ours, theirs in (
            ("embed.proj.", "stem/"),
            ("head.", "head/"),
            ("mixer.fc1.", "token_mixing/Dense_0/"),
            ("mixer.fc2.", "token_mixing/Dense_1/"),
            ("ffn.fc1.", "channel_mixing/Dense_0/"),
            ("ffn.fc2.", "channel_mixing/Dense_1/"),
            ("norm1.", "LayerNorm_0/"),
            ("norm2.", "LayerNorm_1/"),
            ("norm.", "pre_head_layer_norm/"),
        ):
            name = name.replace(ours, theirs)
        if value.ndim == 1:
            name = name.replace("weight", "scale")
        axes = (2, 3, 1, 0) if value.ndim == 4 else tuple(reversed(range(value.ndim)))
        found[name.replace("weight", "kernel")] = value.permute(axes).numpy()
    return found


def older(state):
    """The same in the older form, whose MLPs have numbered leaves with axes of size one."""
    found = {}
    for name, value in authors(state).items():
        if match := re.fullmatch(r"MixerBlock_(\d+)/(\w+)_mixing/Dense_(\d)/(\w+)", name):
            block, kind, place, leaf = match.groups()
            name = f"Mixer/encoderblock_{block}/{kind}_mixing_phase_0/{leaf}{int(place) + 1}"
            value = value[None] if leaf == "kernel" else value[None, None]
        name = re.sub(r"^MixerBlock_", "Mixer/encoderblock_", name)
        name = name.replace("stem/", "embedding/")
        found[name.replace("pre_head_layer_norm/", "Mixer/encoder_norm/")] = value
    return found


@pytest.mark.parametrize("form", [authors, older])
def test_npz_files_of_the_authors(form, tmp_path):
    model = scatter(vitrail.create(SMALL))
    path = tmp_path / "Mixer-X_8.npz"
    np.savez(path, **form(model.state_dict()))
    again = vitrail.load(SMALL, path, source="npz", dtype=torch.float64)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("form", [authors, older])
def test_an_npz_file_without_a_tensor_is_refused(form, tmp_path):
    arrays = form(scatter(vitrail.create(SMALL)).state_dict())
    lost = next(n for n in arrays if "token_mixing" in n)
    del arrays[lost]
    np.savez(tmp_path / "cut.npz", **arrays)
    with pytest.raises(
        CheckpointError,
        match=r"1 missing \((MixerBlock_0/.*/kernel|blocks\.0\.mixer\.fc1\.weight)\)",
    ):
        vitrail.load(SMALL, tmp_path / "cut.npz", source="npz")
