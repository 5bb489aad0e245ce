"""Dense networks: every host under both decoders, names of mmsegmentation, reading in windows."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.position import bilinear_grid
from vitrail.models import (
    beit,
    cait,
    deepvit,
    deit,
    flexivit,
    segmenter,
    t2t_vit,
    vit,
    vit_hybrid,
    xcit,
)
from vitrail.models.segmenter import Config, Encoder, LinearDecoder, MaskDecoder
from vitrail.models.trunk import sliding
from vitrail.models.trunk.sliding import Copy, Sliding, anchors, enlarged
from vitrail.models.trunk.told import told

SMALL = {"dim": 32, "depth": 2, "heads": 2}
HOSTS = [
    Encoder(**SMALL, hidden=64, patch=8),
    Encoder(**SMALL, hidden=64, patch=8, distilled=True),
    beit.Config(**SMALL, hidden=64, patch=8),
    cait.Config(**SMALL, patch=8),
    deepvit.Config(**SMALL, hidden=64, patch=8, reattention=1),
    deit.Config(**SMALL, hidden=64, patch=8),
    flexivit.Config(**SMALL, hidden=64, patch=8, kernel=8),
    t2t_vit.Config(**SMALL, hidden=64),
    vit.Config(**SMALL, hidden=64, patch=8, pool="map"),
    vit_hybrid.Config(**SMALL, hidden=64, patch=4, root=8),
    xcit.Config(**SMALL, strides=(2, 2, 2)),
]
DECODERS = [LinearDecoder(), MaskDecoder(dropout=0.0)]


def small(decoder=DECODERS[1], host=HOSTS[0], **changes):
    """A small segmenter for 48x64 images of 5 classes."""
    sizes = {"image": (48, 64), "channels": 3, "classes": 5, "drop_path": 0.0} | changes
    return Config(replace(host, **sizes), decoder)


def made(config, dtype=torch.float64):
    torch.manual_seed(0)
    model = vitrail.create(config).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("decoder", DECODERS, ids=["linear", "mask"])
@pytest.mark.parametrize("host", HOSTS, ids=[models.trunk.hosts.kind_of(type(h)) for h in HOSTS])
def test_every_host_answers_for_every_pixel(host, decoder):
    config = small(decoder, host)
    model = made(config)
    image = noise(2, 3, 48, 64)
    with torch.no_grad():
        scores = model(image)
        alone = torch.cat([model(one[None]) for one in image])
    assert scores.shape == (2, 5, 48, 64)
    assert (scores - alone).abs().max() <= 1e-10 * scores.abs().max()
    assert [m.shape[-1] for m in model.features(image)] == [32]
    assert models.config_from_json(models.config_json(config)) == config
    again = vitrail.load(config, model.state_dict(), dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again(image), scores)


@pytest.mark.parametrize("decoder", DECODERS, ids=["linear", "mask"])
def test_gradients_reach_encoder_and_decoder(decoder):
    model = made(small(decoder)).train()
    model(noise(2, 3, 48, 64)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_the_border_is_padded_and_cut_off():
    """A 43x58 image is the same image with zeros below and right, cut again."""
    model, image = made(small()), noise(1, 3, 43, 58)
    with torch.no_grad():
        padded = torch.nn.functional.pad(image, (0, 6, 0, 5))
        assert torch.equal(model(image), model(padded)[..., :43, :58])
        assert model(image).shape == (1, 5, 43, 58)


def test_positions_are_resized_by_their_number():
    """As many patches on another grid take the table as it is; others a bilinear one."""
    model = made(small(image=(32, 32)))
    table = model.backbone.embed.position
    with torch.no_grad():
        assert model.backbone.embed._positions((8, 2)) is table
        wide = model.backbone.embed._positions((4, 8)).view(4, 8, -1)
    grid = table.view(4, 4, -1)
    assert torch.allclose(wide[:, 0], grid[:, 0])
    assert torch.allclose(wide[:, 1], 0.75 * grid[:, 0] + 0.25 * grid[:, 1])


@pytest.mark.parametrize("name", [n for n, v in models.dense().items() if v.family == "segmenter"])
def test_published_counts(name):
    """Parameters with the unread heads for 1000 classes, which the published counts include."""
    variant = models.dense()[name]
    model = models.trunk.catalog.skeleton(variant.config)
    heads = (1 + variant.config.host.distilled) * (1000 * model.width + 1000)
    counted = (sum(p.numel() for p in model.parameters()) + heads) / 1e6
    if variant.params_m is not None:
        assert counted == pytest.approx(variant.params_m, rel=0.04)
    assert variant.reads.window == variant.config.image[0]


@pytest.mark.parametrize(
    ("name", "params_m"),
    [
        ("seg_t_mask_16", 6.9),
        ("seg_s_mask_16", 26.4),
        ("seg_b_mask_16", 103.3),
        ("seg_b_16_deit", 88.1),
        ("seg_l_mask_16", 333.7),
    ],
)
def test_the_authors_networks_counted(name, params_m):
    """Those that were counted at 512 pixels with 150 classes, to the digit that was noted."""
    config = models.resolve(name, image=(512, 512), classes=150)
    model = models.trunk.catalog.skeleton(config)
    heads = (1 + config.host.distilled) * (1000 * model.width + 1000)
    counted = (sum(p.numel() for p in model.parameters()) + heads) / 1e6
    assert counted == pytest.approx(params_m, abs=0.05)


@pytest.mark.parametrize("name", ["seg_t_mask_16", "seg_b_16_deit"])
def test_shapes_tell_classes_channels_and_crop(name):
    there = models.resolve(name, classes=7, image=(64, 64), channels=1)
    assert told(models.resolve(name), models.trunk.catalog.shapes(there)) == there


def test_a_name_takes_what_the_file_tells():
    there = vitrail.create("seg_t_mask_16", classes=7, image=(64, 64), channels=1)
    state = there.state_dict()
    assert vitrail.load("seg_t_mask_16", state).config == there.config
    moved = vitrail.load("seg_t_mask_16", state, classes=3, image=(128, 96), channels=3)
    assert (moved.config.classes, moved.config.image, moved.config.channels) == (3, (128, 96), 3)
    old = there.backbone.embed.position
    assert torch.equal(moved.backbone.embed.position, bilinear_grid(old, (4, 4), (8, 6)))
    kept = "head.blocks.0.mixer.qkv.weight"
    assert torch.equal(moved.state_dict()[kept], state[kept])


def test_names_that_are_nearly_right():
    with pytest.raises(ConfigError, match=r"did you mean .*seg_t_mask_16"):
        vitrail.create("seg_t_mask_6")
    state = vitrail.create(small(host=Encoder(**SMALL, hidden=64, patch=8))).state_dict()
    with pytest.raises(CheckpointError, match="does not fit seg_t_mask_16"):
        vitrail.load("seg_t_mask_16", state)


# ---- names of mmsegmentation -------------------------------------------------------------


def of_mmseg(model):
    """The state of a segmenter on a DeiT as mmsegmentation names it."""
    state, table = dict(model.state_dict()), {}
    token, position = state.pop("backbone.embed.token"), state.pop("backbone.embed.position")
    row = torch.full_like(token, 0.25)
    table["backbone.cls_token"] = token - row
    table["backbone.pos_embed"] = torch.cat([row, position], 1)
    words = [
        ("backbone.embed.proj.", "backbone.patch_embed.projection."),
        ("backbone.norm.", "backbone.ln1."),
        ("backbone.blocks.", "backbone.layers."),
        ("head.blocks.", "decode_head.layers."),
        ("head.proj.", "decode_head.dec_proj."),
        ("head.of_patches.", "decode_head.patch_proj."),
        ("head.of_classes.", "decode_head.classes_proj."),
        ("head.norm.", "decode_head.decoder_norm."),
        ("head.scale.", "decode_head.mask_norm."),
        ("head.", "decode_head.conv_seg."),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
        (".mixer.qkv.", ".attn.attn.in_proj_"),
        (".mixer.proj.", ".attn.attn.out_proj."),
        (".ffn.fc1.", ".ffn.layers.0.0."),
        (".ffn.fc2.", ".ffn.layers.1."),
    ]
    for name, value in state.items():
        if name == "head.classes":
            table["decode_head.cls_emb"] = value[None]
            continue
        for ours, theirs in words:
            if ours.startswith(".") or name.startswith(ours):
                name = name.replace(ours, theirs, 1)
        table[name] = value[..., None, None] if name.endswith("conv_seg.weight") else value
    return table


@pytest.mark.parametrize("decoder", DECODERS, ids=["linear", "mask"])
def test_names_of_mmsegmentation(decoder, tmp_path):
    model = made(small(decoder, deit.Config(**SMALL, hidden=64, patch=8)))
    state = of_mmseg(model)
    if decoder == DECODERS[1]:  # its base class leaves a layer that nothing reads
        state["decode_head.conv_seg.weight"] = torch.zeros(5, 32, 1, 1)
        state["decode_head.conv_seg.bias"] = torch.zeros(5)
    assert not state.keys() & model.state_dict().keys()
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, tmp_path / "iter_160000.pth")
    loaded = vitrail.load(model.config, tmp_path / "iter_160000.pth", dtype=torch.float64)
    image = noise(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(image), model(image), atol=1e-12)


def test_mmsegmentation_and_the_authors_have_their_own_networks():
    """Both have the same tensors and another epsilon: neither file gets into the other network."""
    ours = made(small(host=deit.Config(**SMALL, hidden=64, patch=8)))
    with pytest.raises(CheckpointError, match="does not fit segmenter"):
        vitrail.load(small(), of_mmseg(ours))
    expected = golden.read(golden.FOLDER / "segmenter_tiny_mask.json")
    with pytest.raises(CheckpointError, match="does not fit seg_t_mask_16_mmseg"):
        vitrail.load("seg_t_mask_16_mmseg", golden.state(expected))
    eps = {
        name: {m.eps for m in models.trunk.catalog.skeleton(models.resolve(name)).backbone.modules()
               if isinstance(m, torch.nn.LayerNorm)}
        for name in ("seg_t_mask_16", "seg_t_mask_16_mmseg")
    }  # fmt: skip
    assert eps == {"seg_t_mask_16": {1e-5}, "seg_t_mask_16_mmseg": {1e-6}}


def test_weights_of_a_classifier_begin_an_encoder():
    """A DeiT without its head has the tensors of an encoder of its sizes."""
    known = vitrail.create(deit.Config(**SMALL, hidden=64, patch=8, image=(32, 32), classes=0))
    moved = vitrail.load(known.config, known.state_dict(), image=(48, 64))
    model = vitrail.create(small(host=Encoder(**SMALL, hidden=64, patch=8)))
    model.backbone.load_state_dict(moved.state_dict())
    weight = "blocks.1.mixer.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[weight], known.state_dict()[weight])


@pytest.mark.parametrize("decoder", DECODERS, ids=["linear", "mask"])
def test_deployed_it_computes_the_same(decoder):
    model, image = made(small(decoder)), noise(1, 3, 43, 58)
    with torch.no_grad():
        scores = model(image)
        assert torch.allclose(deploy(model)(image), scores, atol=1e-10)


def test_a_decoder_of_the_other_kind_does_not_fit():
    model = made(small(DECODERS[0]))
    with pytest.raises(CheckpointError, match="does not fit segmenter"):
        vitrail.load(small(DECODERS[1]), model.state_dict())


# ---- reading in windows ------------------------------------------------------------------


def test_the_authors_sliding_window():
    """Two copies of a picture, the second mirrored, against the authors' inference."""
    expected = golden.read(golden.FOLDER / "blocks" / "segmenter_sliding_window.json")
    family, changes = expected["create"]
    config = models.config_from_json({"family": family, **changes})
    model = vitrail.load(config, golden.state(expected), dtype=torch.float64)
    plain, mirrored = golden.image(expected["input_shape"]).split(1)
    for batch in (1, 8):
        read = Sliding(window=64, stride=48, batch=batch)
        found = read.merged(model, [Copy(plain), Copy(mirrored, mirrored=True)], (90, 130))[0]
        figures = expected["outputs"]
        assert golden.deviation(found, figures["probabilities"]) <= 1e-6
        assert golden.deviation(found[:, 31, 47], figures["at_row31_col47"]) <= 1e-6


def test_anchors_cover_a_side():
    for side, window, stride in ((64, 64, 48), (65, 64, 48), (140, 64, 48), (160, 64, 32)):
        found = anchors(side, window, stride)
        assert found[0] == 0 and found[-1] == side - window
        assert all(0 < b - a <= stride for a, b in pairwise(found))
    assert anchors(160, 64, 32) == [0, 32, 64, 96]


def test_a_short_side_becomes_a_window():
    assert enlarged(noise(1, 1, 30, 50), 64).shape == (1, 1, 64, 106)
    assert enlarged(noise(1, 1, 50, 30), 64).shape == (1, 1, 106, 64)
    image = noise(1, 1, 64, 90)
    assert enlarged(image, 64) is image


def test_a_model_of_single_pixels_is_read_exactly():
    """Windows, scales of 1 and mirrors change nothing of what each pixel tells by itself."""
    image, model = noise(2, 3, 50, 70), lambda x: x * 2
    expected = model(image).softmax(1)
    for read in (Sliding(32, 32), Sliding(32, 20, batch=3), Sliding(50, 7, mirrored=True)):
        assert torch.allclose(read.probabilities(model, image), expected, atol=1e-12)


def test_scales():
    image = noise(1, 3, 40, 60)
    several = Sliding(16, 16, ratios=segmenter.SCALES, mirrored=True)
    copies = list(several.copies(image))
    assert [tuple(c.image.shape[-2:]) for c in copies[::2]] == [
        (20, 30), (30, 45), (40, 60), (50, 75), (60, 90), (70, 105),
    ]  # fmt: skip
    assert all(
        torch.equal(a.image.flip(3), b.image)
        for a, b in zip(copies[::2], copies[1::2], strict=True)
    )
    assert [c.mirrored for c in copies] == [False, True] * 6
    total = several.probabilities(lambda x: x, image).sum(1)
    assert torch.allclose(total, torch.ones_like(total))
    (short,) = Sliding(16, 16, short=20).copies(image)
    assert short.image.shape[-2:] == (20, 30)
    (long,) = Sliding(16, 16, short=20).copies(noise(1, 1, 10, 100))
    assert long.image.shape[-2:] == (8, 80)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "window is 0: expected at least 1"),
        ({"stride": 0}, "stride is 0: expected at least 1"),
        ({"stride": 40}, "stride is 40 with windows of 32"),
        ({"batch": -1}, "batch is -1"),
        ({"ratios": ()}, r"ratios are \(\): expected numbers above 0"),
        ({"ratios": (1.0, 0.0)}, "expected numbers above 0"),
        ({"short": -3}, "short is -3"),
    ],
)
def test_sizes_that_cannot_be_read(fields, message):
    with pytest.raises(ConfigError, match=message):
        Sliding(**{"window": 32, "stride": 16} | fields)


@pytest.mark.parametrize("module", [segmenter, sliding], ids=lambda m: m.__name__)
def test_examples_run(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


def test_nothing_to_read():
    with pytest.raises(ConfigError, match="no copies"):
        Sliding(32, 32).merged(lambda x: x, [], (4, 4))


# ---- what does not fit -------------------------------------------------------------------


def test_configs_that_do_not_fit():
    with pytest.raises(ConfigError, match="image is 4x512; patches are 16 pixels"):
        vitrail.create("seg_t_mask_16", image=(4, 512))
    with pytest.raises(ConfigError, match=r"classes is 1: .* two or more"):
        vitrail.create(small(classes=1))
    with pytest.raises(ConfigError, match=r"host\.pre_logits is 32"):
        vitrail.create(small(host=vit.Config(**SMALL, hidden=64, patch=8, pre_logits=32)))
    with pytest.raises(ConfigError, match="dim 32 does not divide into 5 heads"):
        vitrail.create(small(MaskDecoder(heads=5)))
    with pytest.raises(ConfigError, match="expected one of the kinds linear_decoder, mask_decoder"):
        vitrail.create(small(), decoder=deit.Config())
    with pytest.raises(ValueError, match=r"this segmenter takes \(B, 3, H, W\)"):
        made(small())(noise(1, 4, 48, 64))


def test_layers_and_decay():
    """The decoder lies behind all blocks of the encoder; class embeddings do not decay."""
    model = vitrail.create(small())
    assert model.no_decay() == {
        "head.classes", "backbone.embed.token", "backbone.embed.position",
    }  # fmt: skip
    depths = {n: model.depth_of(n) for n, _ in model.named_parameters()}
    assert depths["backbone.embed.proj.weight"] == 0
    assert depths["backbone.blocks.1.ffn.fc1.weight"] == 2
    assert {d for n, d in depths.items() if n.startswith("head.")} == {model.depth} == {3}


def test_how_the_decoder_begins():
    torch.manual_seed(0)
    head = vitrail.create("seg_t_mask_16").head
    assert head.of_patches.weight.std().item() == pytest.approx(192**-0.5, rel=0.02)
    assert head.classes.std().item() == pytest.approx(0.02, rel=0.05)
    assert math.isclose(head.blocks[0].dropout.p, 0.1)
