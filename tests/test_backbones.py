"""What every backbone keeps to, whatever its paper: no family is left out of any test.

The subject is each family's smallest published variant, or the smallest config of its search space
where more than shapes is computed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import vitrail
from vitrail import models
from vitrail.layers.fold import deploy
from vitrail.layers.protocols import Attends
from vitrail.layers.residual import Blocks
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.catalog import bare
from vitrail.training import lean

# A family whose models may take clips is a subject twice.
CLIPS = " of clips"
FAMILIES = [
    family + kind
    for family, module in sorted(models.families().items())
    for kind in ("", CLIPS)[: 1 + hasattr(module.Config, "frames")]
]


def smallest(family: str):
    """The family's published config with the fewest parameters, for short clips if for any."""
    name, clips = family.removesuffix(CLIPS), family.endswith(CLIPS)
    own = [
        v
        for v in vitrail.catalog().values()
        if v.family == name and clips == (len(input_shape(v.config)) == 4)
    ]
    config = min(own, key=lambda v: v.params_m or math.inf).config
    return models.resolve(config, frames=4, image=(64, 64)) if clips else config


def shallow(config):
    """The config with two blocks a stage at most, where its depth is one field."""
    for name in ("depth", "depths"):
        with contextlib.suppress(vitrail.errors.ConfigError), bare():
            found = getattr(config, name, 0)
            few = min(found, 2) if isinstance(found, int) else tuple(min(n, 2) for n in found)
            config = vitrail.create(config, **{name: few}).config
    return config


def coarse(config):
    """The config with a stride of 4 in its stem, where it has one: attention to all of a large map
    takes long."""
    host = getattr(config, "host", None)
    changes = {"stem_stride": 4}
    if hasattr(host, "stem_stride"):
        changes = {"host": replace(host, stem_stride=4)}
    with contextlib.suppress(vitrail.errors.ConfigError), torch.device("meta"):
        return vitrail.create(config, **changes).config
    return config


@functools.cache
def first(family: str):
    """The first config of the family's search space that can be built for 56x56 images, coarse."""
    space = models.families()[family].SPACE
    for config in space.configs(image=(56, 56), channels=3, classes=5):
        with contextlib.suppress(vitrail.errors.ConfigError), torch.device("meta"):
            vitrail.create(config)
            return coarse(config)
    raise AssertionError(f"no small {family} takes 56x56 images")


def tiny(family: str, **changes):
    """A small config of the family for 56x56 images."""
    name = family.removesuffix(CLIPS)
    config = first(name)
    return models.resolve(config, **({"frames": 4} if name != family else {}) | changes)


def build(config, dtype=torch.float32):
    """A model whose every parameter is random: zero-initialised branches would hide faults."""
    torch.manual_seed(0)
    model = vitrail.create(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=max(1, p[0].numel()) ** -0.5)
            else:
                p.add_(torch.randn_like(p) * 0.1)
    return model.to(dtype).eval()


def image(config, batch=1, dtype=torch.float32, size=None):
    generator = torch.Generator().manual_seed(1)
    shape = input_shape(models.resolve(config, image=size or config.image))
    return torch.randn((batch, *shape), generator=generator, dtype=dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_fit_levels(family):
    """On the meta device, where a published model of its full width has shapes and no numbers."""
    config = shallow(smallest(family))
    with bare():
        model = vitrail.create(config).eval()
    x = image(config).to("meta")
    with torch.no_grad():
        maps = model.features(x)
        assert len(maps) == len(model.levels)
        for found, level in zip(maps, model.levels, strict=True):
            sides = input_shape(config)[1:]
            strides = (level.time, level.stride, level.stride)[-len(sides) :]
            lost = level.stride in getattr(models.module_of(config), "UNPADDED", ())
            assert (found.shape[0], found.shape[-1]) == (1, level.channels)
            assert found.ndim == len(sides) + 2
            for side, size, stride in zip(found.shape[1:-1], sides, strides, strict=True):
                assert side in (math.ceil(size / stride), math.ceil(size / stride) - lost)
        embedding = model.embedding(x)
        assert embedding.shape == (1, model.width)
        assert model.head(embedding).shape == (1, config.classes)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_sizes(family):
    """Odd and non-square images, or one sentence that says why not and what to do."""
    config = tiny(family)
    model = build(config)
    for size in ((56, 84), (75, 50), (57, 99)):
        try:
            with torch.no_grad():
                logits = model(image(config, size=size))
        except ValueError as e:
            assert f"{size[0]}x{size[1]}" in str(e)
            moved = models.resolve(config, image=size)
            try:
                vitrail.create(moved)
            except vitrail.errors.ConfigError as refused:
                assert str(refused)
            continue
        assert logits.shape == (1, 5) and logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_pyramids_take_any_image(family):
    """Maps of a 200x333 image are as large as the levels say, rounded down or up, unless the
    network says that it is for one size."""
    config = tiny(family)
    with bare():
        model = vitrail.create(config).eval()
    module = models.module_of(config)
    if len(model.levels) == 1:
        return
    with torch.no_grad():
        try:
            maps = model.features(image(config, size=(200, 333)).to("meta"))
        except ValueError as refused:
            assert "image is 200x333" in str(refused) and "56x56" in str(refused)
            return
    for found, level in zip(maps, model.levels, strict=True):
        lost = level.stride in getattr(module, "UNPADDED", ())
        for side, size in zip(found.shape[-3:-1], (200, 333), strict=True):
            assert side in (size // level.stride, math.ceil(size / level.stride) - lost)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_channels(family, channels):
    config = tiny(family, channels=channels)
    model = build(config)
    assert model(image(config)).shape == (1, 5)
    with pytest.raises(ValueError, match=f"takes \\(B, {channels}"):
        model(torch.zeros(1, channels + 1, *input_shape(config)[1:]))


# A published model takes seconds where a small one of the same modules takes none.
EITHER = [
    pytest.param(family, size, id=family if size is tiny else f"{family}, published", marks=marks)
    for size, marks in ((tiny, ()), (smallest, pytest.mark.slow))
    for family in FAMILIES
]


@pytest.mark.parametrize(("family", "size"), EITHER)
def test_batch_of_one_and_three(family, size):
    config = size(family)
    model = build(config, torch.float64)
    x = image(config, 3, torch.float64)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(row[None]) for row in x])
    assert (together - alone).abs().max() <= 1e-10 * max(1, float(together.abs().max()))


@pytest.mark.parametrize(("family", "size"), EITHER)
def test_gradients_reach_every_parameter(family, size):
    # Stochastic depth may leave a branch out of both samples.
    model = build(models.resolve(size(family), drop_path=0.0)).train()
    out = model(image(model.config, 2))
    sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,))).backward()
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)
    ]
    idle = getattr(models.module_of(model.config), "idle", lambda config: ())(model.config)
    assert all(any(i in n for i in idle) for n in without), without


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_is_equal(family):
    """Recomputing blocks in the backward pass changes no gradient, and is really done."""
    model = build(models.resolve(tiny(family), drop_path=0.0), torch.float64).train()
    x = image(model.config, 2, torch.float64)
    start, runs = copy.deepcopy(model.state_dict()), []
    for module in model.modules():
        if isinstance(module, Blocks):
            module[0].register_forward_pre_hook(lambda *_: runs.append(1))
    found = []
    for recompute in (False, True):
        model.load_state_dict(start)
        model.recompute(recompute)
        runs.clear()
        out = model(x)
        sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,))).backward()
        found.append((len(runs), {n: p.grad for n, p in model.named_parameters()}))
        model.zero_grad()
    (once, expected), (twice, got) = found
    assert twice == 2 * once > 0
    for name, gradient in expected.items():
        if gradient is None:
            assert got[name] is None, name
            continue
        limit = 1e-10 * max(1e-3, float(gradient.abs().max()))
        assert (got[name] - gradient).abs().max() <= limit, name


@pytest.mark.parametrize("family", FAMILIES)
def test_lean_training_is_equal(family, monkeypatch):
    """Making cheap activations again changes no bit of a gradient, and is done."""
    assert lean.trouble() is None  # tried once a process, before what is made is counted
    made, recipe = [], lean._Keeper._makes

    def counted(*args):
        make = recipe(*args)
        return make and (lambda: made.append(1) or make())

    monkeypatch.setattr(lean, "LEAST_BYTES", 0)
    monkeypatch.setattr(lean._Keeper, "_makes", counted)
    model = build(models.resolve(tiny(family), drop_path=0.0)).train()
    x = image(model.config, 2)
    start, found = copy.deepcopy(model.state_dict()), []
    for saving in (contextlib.nullcontext, lean.Lean(model)):
        model.load_state_dict(start)
        with saving():
            out = model(x)
            loss = sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))
        assert not made
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(gradients | {n: b.clone() for n, b in model.named_buffers()})
        model.zero_grad()
    assert made
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family):
    config = tiny(family)
    model = build(config)
    with torch.no_grad():
        exact = model(image(config, 2))
        half = model.to(torch.bfloat16)(image(config, 2).bfloat16())
    assert half.dtype == torch.bfloat16
    assert (exact - half.float()).norm() <= 0.1 * exact.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_state_round_trip(family):
    config = tiny(family)
    model = build(config)
    again = vitrail.load(config, model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(image(config)), again(image(config)))


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_depths(family):
    model = vitrail.create(tiny(family))
    depths = {n: model.depth_of(n) for n, _ in model.named_parameters()}
    assert min(depths.values()) == 0
    assert {d for n, d in depths.items() if n.startswith("head.")} == {model.depth}
    assert set(depths.values()) == set(range(model.depth + 1))
    assert model.no_decay() <= set(depths)


@pytest.mark.parametrize(("family", "size"), EITHER)
def test_deployed_is_equal(family, size):
    config = size(family)
    model = build(config, torch.float64)
    x = image(config, 2, torch.float64)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, norms):
                m.running_mean.normal_(std=0.1)
                m.running_var.uniform_(0.5, 1.5)
        expected, deployed = model(x), deploy(model)
        assert (expected - deployed(x)).abs().max() <= 1e-10 * expected.abs().max()
    assert not any(isinstance(m, norms) for m in deployed.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights(family):
    """Rows of every mixer's attention sum to one."""
    config = tiny(family)
    model, seen = build(config), []
    for module in model.modules():
        if isinstance(module, Attends):
            module.register_forward_pre_hook(lambda m, args: seen.append(m.weights(*args)))
    with torch.no_grad():
        model(image(config, 2))
    assert bool(seen) == getattr(models.module_of(config), "ATTENDS", True)
    for weights in seen:
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


COMPILE = """
import json, sys, torch, vitrail
from vitrail import models
from vitrail.models.trunk.backbone import input_shape
from vitrail.training import lean
found = {}
for family, config in json.loads(sys.argv[1]).items():
    config = models.config_from_json(config)
    model = vitrail.create(config).eval()
    x = torch.randn(1, *input_shape(config))
    torch._dynamo.reset()  # one code object, Backbone.forward, would be compiled too often
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=sys.argv[2])
        found[family] = float((compiled(x) - model(x)).abs().max())
print(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "families",
    [
        FAMILIES[::16],
        *(
            pytest.param(some, marks=pytest.mark.slow)
            for some in (FAMILIES[8::16], *(FAMILIES[k::8] for k in range(1, 8)))
        ),
    ],
    ids=str,
)
def test_compiles_whole(families, backend):
    """Several families in one fresh process: dynamo cannot trace the shape checks."""
    configs = {family: models.config_json(tiny(family)) for family in families}
    command = [sys.executable, "-c", COMPILE, json.dumps(configs), backend]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found.keys() == set(families)
    assert all(difference <= 1e-5 for difference in found.values()), found


# A ninth of the families every day, the others with the slow tests: an export takes seconds.
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[] if at % 9 == 3 else [pytest.mark.slow])
        for at, name in enumerate(FAMILIES)
    ],
)
def test_onnx_parity(family, tmp_path):
    import onnxruntime

    config = tiny(family)
    model = build(config)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        deploy(model),
        (image(config, 2),),
        path,
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 3):
        x = image(config, batch)
        with torch.no_grad():
            expected = model(x).numpy()
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


SEAMS = ("embed", "stem", "norm", "pool", "blocks.0.mixer", "stages.0.blocks.0.mixer")


@pytest.mark.parametrize("family", FAMILIES)
def test_seams_are_read(family):
    """What stands at a named place can be replaced: a model reads what is there, at every call."""
    model = build(tiny(family))
    x = image(model.config)
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

        def forward(self, *inputs):
            seen.append(self)
            return self.inner(*inputs)

    with torch.no_grad():
        expected = model(x)
        own = dict(model.named_modules())
        placed = [name for name in SEAMS if name in own and not placed_in_pairs(own[name])]
        assert "pool" in placed
        for name in placed:
            owner, _, key = name.rpartition(".")
            setattr(model.get_submodule(owner), key, Watched(own[name]))
        assert torch.equal(model(x), expected)
        assert len({id(module) for module in seen}) == len(placed)
        model.head = torch.nn.Identity()
        assert torch.equal(model(x), model.embedding(x))


def placed_in_pairs(module):
    """Several norms of one name, of which a model takes the one that it needs."""
    return isinstance(module, torch.nn.ModuleList)
