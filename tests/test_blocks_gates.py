"""SE, ECA, CBAM, BAM, global context and non-local blocks: alone, against goldens and loops."""

import math

import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.gates import Gate, squeezed
from vitrail.models import cbam, eca, gcnet, senet
from vitrail.models.parts import gcnet_context

ALONE = {
    "se_module": (lambda: senet.SqueezeExcite(64, 8), senet.NAMES["timm"], ".se."),
    "eca_module": (lambda: eca.ChannelAttention(3), eca.NAMES["timm"], ".se."),
    "cbam_module": (
        lambda: cbam.CBAM(64, 4, ("avg", "max"), bias=False),
        cbam.NAMES["timm"],
        ".se.",
    ),
    "cbam_module_official": (
        lambda: cbam.CBAM(64, 4, ("avg", "max")),
        cbam.NAMES["Jongchan/attention-module"],
        ".cbam.",
    ),
    "gc_block_r16_add": (
        lambda: gcnet_context.GlobalContext(64, 4),
        gcnet.NAMES["xvjiarui/GCNet"],
        ".context_block.",
    ),
    "gc_block_r4_avg_mul_add": (
        lambda: gcnet_context.GlobalContext(48, 12, pooling="avg", fusion=("mul", "add")),
        gcnet.NAMES["xvjiarui/GCNet"],
        ".context_block.",
    ),
    "gc_module_timm": (
        lambda: gcnet_context.GlobalContext(64, 8, fusion=("mul",), eps=1e-6),
        gcnet.NAMES["timm"],
        ".se.",
    ),
    "nonlocal2d_embedded_gaussian": (
        lambda: gcnet_context.NonLocal(32, 16),
        gcnet.NAMES["xvjiarui/GCNet"],
        ".nonlocal_block.",
    ),
}


def kind(value):
    return type(value).__name__


def random(module):
    generator = torch.Generator().manual_seed(0)
    module.double().eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(noise.abs() + 0.5 if name.endswith("var") else noise * 0.5)
    return module


def image(*shape):
    """A map whose memory is channels last, as a ResNet's are."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)


def read(name):
    return golden.read(golden.FOLDER / "blocks" / f"{name}.json")


@pytest.mark.parametrize("name", ALONE)
def test_module_golden(name):
    build, table, where = ALONE[name]
    expected, module = read(name), build().double().eval()
    config = {"se": senet, "ec": eca, "cb": cbam}.get(name[:2], gcnet).Config()
    state = {f"layer1.0{where}{k}": v for k, v in golden.state(expected).items()}
    state = rename(state, table(config))
    module_state = {k.removeprefix("stages.0.blocks.0.gate."): v for k, v in state.items()}
    missing, unexpected = module.load_state_dict(module_state, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing)
    assert sum(p.numel() for p in module.parameters()) == expected["params"]
    with torch.no_grad():
        found = module(golden.image(expected["input_shape"]))
    assert golden.deviation(found, expected["outputs"]["logits"]) <= 1e-6


def test_bam_golden():
    expected, module = read("bam_module"), cbam.BAM(64, 4).double().eval()
    state = {f"bam1.{k}": v for k, v in golden.state(expected).items()}
    state = rename(state, cbam.NAMES["Jongchan/attention-module"](cbam.Config()))
    state = {k.removeprefix("stages.1.down."): v for k, v in state.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing)
    assert sum(p.numel() for p in module.parameters()) == expected["params"]
    with torch.no_grad():
        found = module(golden.image(expected["input_shape"]).permute(0, 2, 3, 1))
    assert golden.deviation(found.permute(0, 3, 1, 2), expected["outputs"]["logits"]) <= 1e-6


GATES = {
    "se": lambda: senet.SqueezeExcite(12, 4),
    "ese": lambda: senet.EffectiveSqueezeExcite(12),
    "eca": lambda: eca.ChannelAttention(5),
    "cbam": lambda: cbam.CBAM(12, 3, ("avg", "max", "lp", "lse")),
    "cbam_3x3": lambda: cbam.CBAM(12, 3, ("avg", "max"), kernel=3),
    "gc": lambda: gcnet_context.GlobalContext(12, 3, fusion=("mul", "add")),
    "gc_mul": lambda: gcnet_context.GlobalContext(12, 3, fusion=("mul",)),
    "gc_add": lambda: gcnet_context.GlobalContext(12, 3, pooling="avg"),
    "snl": lambda: gcnet_context.Simplified(12),
    **{
        f"nl_{form}": lambda form=form: gcnet_context.NonLocal(12, 6, form=form)
        for form in gcnet_context.FORMS
    },
    "nl_normed": lambda: gcnet_context.NonLocal(12, 6, normed=True, scale=0.3),
}


@pytest.mark.parametrize("name", GATES)
def test_joined_is_the_gate_and_the_sum(name):
    """Also folded; neither the map nor its memory format is touched."""
    module, x, other = random(GATES[name]()), image(2, 12, 5, 7), image(2, 12, 5, 7) / 3
    before = x.clone()
    with torch.no_grad():
        expected = module(x)
        assert expected.shape == x.shape
        for m in (module, deploy(module)):
            assert (m(x) - expected).abs().max() <= 1e-12
            joined = m.joined(x, other)
            assert (joined - expected - other).abs().max() <= 1e-12
            assert joined.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in deploy(module).modules())


@pytest.mark.parametrize("name", GATES)
def test_gradients_of_joined(name):
    module, x = random(GATES[name]()), image(2, 12, 3, 4).requires_grad_()
    other = (image(2, 12, 3, 4) / 3).requires_grad_()
    module.joined(x, other).square().sum().backward()
    found = [x.grad, other.grad, *(p.grad for p in module.parameters())]
    x.grad = other.grad = None
    module.zero_grad()
    (module(x) + other).square().sum().backward()
    expected = [x.grad, other.grad, *(p.grad for p in module.parameters())]
    for one, two in zip(found, expected, strict=True):
        assert (one - two).abs().max() <= 1e-10 * max(1, float(two.abs().max()))


def test_eca_by_hand():
    """Channels beyond the first and the last count as zero."""
    module, x = random(eca.ChannelAttention(3)), image(1, 4, 3, 5)
    means = [0.0, *(float(x[0, c].sum()) / 15 for c in range(4)), 0.0]
    weights = module.conv.weight[0, 0].tolist()
    with torch.no_grad():
        found = module(x)
    for c in range(4):
        logit = sum(w * m for w, m in zip(weights, means[c : c + 3], strict=True))
        assert (found[0, c] - x[0, c] / (1 + math.exp(-logit))).abs().max() <= 1e-12


def test_kernels_of_eca():
    dims = {8: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}
    assert {dim: eca.kernel_of(dim) for dim in dims} == dims
    model = vitrail.create("eca_resnet_50")
    found = [stage.blocks[0].gate.conv.weight.numel() for stage in model.stages]
    assert found == [3, 5, 5, 7]  # the authors' weights
    ruled = vitrail.create("eca_resnet_50", kernels=())
    assert [s.blocks[0].gate.conv.weight.numel() for s in ruled.stages] == [5, 5, 5, 7]


def test_pools_of_cbam():
    x = image(2, 3, 4, 5)
    flat = x.flatten(2)
    expected = {
        "avg": flat.sum(2) / 20,
        "max": flat.max(2).values,
        "lp": flat.square().sum(2).sqrt(),
        "lse": flat.exp().sum(2).log(),
    }
    assert expected.keys() == cbam.POOLS.keys()
    for name, pool in cbam.POOLS.items():
        assert (pool(x) - expected[name]).abs().max() <= 1e-12


def test_spatial_gate_begins_at_a_half():
    module, x = cbam.SpatialGate().double().eval(), image(2, 8, 6, 5)
    assert torch.equal(module(x), x / 2)
    assert module.gather.norm.momentum == 0.01


def test_bam_of_other_shapes_is_one_word_on_all_positions():
    """On a map that is not square the channels' word comes from all of it."""
    module, x = random(cbam.BAM(8, 2)), image(2, 8, 6, 9)
    told = module.channel(x)
    positions = module.spatial(x)
    expected = x * (1 + torch.sigmoid(told[:, :, None, None] * positions))
    with torch.no_grad():
        found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert (found - expected).abs().max() <= 1e-12


def test_bam_stands_between_stages():
    model = random(vitrail.create("bam_resnet_18", image=(64, 64)))
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        first, second, *_ = model.features(x)
        stem = model.stem(x)
        assert torch.equal(first, model.stages[0].blocks(stem))
        assert torch.equal(second, model.stages[1].blocks(model.stages[1].down(first)))
    assert [type(s.down).__name__ for s in model.stages] == ["Identity", *["BAM"] * 3]


def test_context_by_hand():
    module, x = random(gcnet_context.GlobalContext(4, 2, fusion=("mul", "add"))), image(1, 4, 2, 3)
    with torch.no_grad():
        found, shares = module(x), module.pool.weights(x)[0, 0, 0]
        pixels = [x[0, :, i, j] for i in range(2) for j in range(3)]
        raised = [math.exp(float(module.pool.mask.weight[0] @ p)) for p in pixels]
        expected = torch.tensor(raised, dtype=x.dtype) / sum(raised)
        assert (shares - expected).abs().max() <= 1e-12  # the bias plays no part
        context = sum(s * p for s, p in zip(expected, pixels, strict=True))
        factor = torch.sigmoid(module.mul(context[None])[0])
        term = module.add(context[None])[0]
        for k, pixel in enumerate(pixels):
            assert (found[0, :, k // 3, k % 3] - pixel * factor - term).abs().max() <= 1e-12


@pytest.mark.parametrize("form", gcnet_context.FORMS)
@pytest.mark.parametrize("size", [(2, 3), (4, 5)])  # fewer and more positions than channels
def test_non_local_by_hand(form, size):
    module, x = random(gcnet_context.NonLocal(10, 8, form=form, scale=0.7)), image(2, 10, *size)
    n = size[0] * size[1]
    with torch.no_grad():
        found, weights = module(x), module.weights(x)
        for b in range(2):
            pixels = x[b].flatten(1).T
            parts = pixels @ module.project.weight.T + module.project.bias
            theta, phi, g = (pixels, pixels, parts) if form == "gaussian" else parts.split(8, 1)
            table = torch.empty(n, n, dtype=x.dtype)
            for i in range(n):
                for j in range(n):
                    if form == "concatenation":
                        both = torch.cat([theta[i], phi[j]])
                        table[i, j] = (module.pair.weight[0] @ both).clamp(min=0) / n
                    elif form == "dot_product":
                        table[i, j] = theta[i] @ phi[j] / n
                    else:
                        table[i, j] = torch.exp(0.7 * theta[i] @ phi[j])
            if form.endswith("gaussian"):
                table /= table.sum(1, keepdim=True)
            y = table @ g @ module.leave.weight.T + module.leave.bias
            expected = x[b] + y.T.unflatten(1, size)
            assert (weights[b, 0] - table).abs().max() <= 1e-12
            assert (found[b] - expected).abs().max() <= 1e-10


def test_scales_of_non_local():
    def scale(**changes):
        return gcnet.NL(ratio=1 / 4, **changes).build(64).scale

    assert scale() == 1
    assert (scale(scale="repository"), scale(scale="inverse"), scale(scale="timm")) == (
        4,
        1 / 4,
        1 / 8,
    )
    assert scale(scale="inverse", form="gaussian") == 1 / 8


@pytest.mark.parametrize("context", [gcnet.GC(), gcnet.SNL(), gcnet.NL()], ids=kind)
def test_blocks_begin_as_the_identity(context):
    """In the branch and in the stream: a ResNet of the same weights computes the same."""
    x = torch.randn(1, 3, 64, 64)
    for place in ("branch", "stream"):
        model = vitrail.create("gcnet_r50_r16", context=context, place=place).eval()
        plain = vitrail.create("resnet_50").eval()
        own = model.state_dict()
        stream = (3, 4, 6, 3)
        state = {}
        for name in plain.state_dict():
            i, _, j = name.removeprefix("stages.").partition(".blocks.")
            theirs = name
            last = place == "stream" and name.startswith(("stages.1", "stages.2", "stages.3"))
            if last and j.startswith(f"{stream[int(i)] - 1}."):
                theirs = f"stages.{i}.blocks.{stream[int(i)]}{j[1:]}"
            state[name] = own[theirs]
        plain.load_state_dict(state)
        with torch.no_grad():
            expected = plain(x)
            assert (model(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("word", "context"),
    [
        ("gc", gcnet.GC(0.25, "avg", ("mul", "add"), 1e-6)),
        ("snl", gcnet.SNL()),
        ("nl", gcnet.NL(0.25, "gaussian", "timm", True)),
    ],
)
def test_contexts_of_older_files(word, context):
    """`context` was a word, and what belongs to it stood beside it."""
    old = {
        "context": word, "ratio": 0.25, "pooling": "avg", "fusion": ["mul", "add"], "eps": 1e-6,
        "form": "gaussian", "scale": "timm", "normed": True, "depths": [1, 2, 2], "dims": [8, 8, 8],
        "stages": [False, True, False], "place": "stream",
    }  # fmt: skip
    read = models.config_from_json({"family": "gcnet", **old})
    sizes = {"depths": (1, 2, 2), "dims": (8, 8, 8), "stages": (False, True, False)}
    assert read == gcnet.Config(context=context, place="stream", **sizes)
    assert models.config_from_json(models.config_json(read)) == read


def test_squeeze_in_float32():
    """A mean of float16 whose sum leaves its range, and one that its steps would round."""
    x = torch.full((1, 2, 112, 112), 60.0, dtype=torch.float16)
    x[0, 1, 0, 0] = 64
    means = squeezed(x)
    assert means.dtype == torch.float32
    assert means[0, 0] == 60 and means[0, 1] == pytest.approx(60 + 4 / 112**2, abs=1e-5)
    assert squeezed(x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", GATES)
def test_autocast_keeps_maps_in_low_precision(name):
    """A gate in float32 would turn the whole map into float32."""
    module, x = random(GATES[name]()).float(), image(2, 12, 5, 7).float()
    with torch.no_grad():
        exact = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(x.bfloat16())
        assert found.dtype == torch.bfloat16
        assert (found.float() - exact).norm() <= 0.05 * exact.norm()


def test_hidden_widths():
    """timm's are multiples of eight; the paper's are a sixteenth."""
    assert [senet.rounded(c / 16, 8) for c in (64, 96, 128, 256, 192, 320)] == [8, 8, 8, 16, 16, 24]
    theirs, ours = (
        vitrail.create("seresnet_18", divisor=d).stages[0].blocks[0].gate.fc1 for d in (8, 1)
    )
    assert (theirs.out_features, ours.out_features) == (8, 4)


def test_a_gate_must_say_its_factor():
    with pytest.raises(NotImplementedError):
        Gate()(image(1, 2, 3, 3))
    with pytest.raises(NotImplementedError):
        gcnet_context.Context()(image(1, 2, 3, 3))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("seresnet_18", {"reduction": 100, "divisor": 1}, "64 channels over a reduction of 100"),
        ("seresnet_18", {"reduction": 0}, "reduction is 0: expected at least 1"),
        ("seresnet_18", {"divisor": 0}, "divisor is 0: expected at least 1"),
        ("seresnet_18", {"gate": "sea"}, "gate is 'sea': expected se or ese"),
        ("eca_resnet_18", {"kernels": (3, 4, 3, 3)}, "over channels is 4: expected an odd"),
        ("eca_resnet_18", {"kernels": (3, 5)}, r"kernels \(3, 5\) for 4 stages"),
        ("cbam_resnet_18", {"reduction": 65}, "over a reduction of 65 leave none"),
        ("cbam_resnet_18", {"pools": ("avg", "min")}, "expected one or more of avg, max, lp, lse"),
        ("cbam_resnet_18", {"pools": ()}, r"pools are \(\): expected one or more"),
        ("cbam_resnet_18", {"kernel": 4}, "kernel is 4: expected an odd number"),
        ("cbam_resnet_18", {"attention": "cba"}, "attention is 'cba': expected cbam or bam"),
        ("bam_resnet_18", {"reduction": 65}, "over a reduction of 65 leave none"),
        ("gcnet_r50_r16", {"context": gcnet.GC(0.001)}, "0.001 leaves none of 512 channels"),
        ("gcnet_r50_r16", {"context": gcnet.GC(fusion=("div",))}, "expected mul, add"),
        ("gcnet_r50_r16", {"context": gcnet.GC(fusion=())}, r"fusion is \(\): expected"),
        ("gcnet_r50_r16", {"context": gcnet.GC(pooling="max")}, "expected att or avg"),
        ("gcnet_r50_r16", {"context": "gca"}, "'gca': expected one of the kinds gc, snl, nl"),
        ("gcnet_r50_r16", {"context": {"kind": "gca"}}, "'gca' does not exist: did you mean 'gc'"),
        ("gcnet_r50_r16", {"place": "end"}, "place is 'end': expected branch or stream"),
        ("gcnet_r50_r16", {"stages": (True,)}, "expected one word each"),
        ("nlnet_r50_one", {"context": gcnet.NL(form="cosine")}, "form is 'cosine': expected"),
        ("nlnet_r50_one", {"context": gcnet.NL(scale="half")}, "scale is 'half': expected none"),
        ("nlnet_r50_one", {"depths": (1, 1, 1, 1)}, "stage 2 has 1 block"),
    ],
)
def test_what_cannot_be_built(name, changes, words):
    with pytest.raises(ConfigError, match=words):
        vitrail.create(name, **changes)
