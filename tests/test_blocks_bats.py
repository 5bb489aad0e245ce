"""BATS: signs and their gradients, bytes and bits, cells step by step, stages, bad input."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.scatter import scattered

import vitrail
from vitrail import checkpoint
from vitrail.errors import ConfigError
from vitrail.layers import binary
from vitrail.layers.binary import (
    BINARISERS,
    BinaryConv2d,
    ByteConv2d,
    Plain,
    Real,
    Straight,
    Xnor,
    convolution,
    pack,
    sign,
    unpack,
)
from vitrail.layers.fold import deploy
from vitrail.models.bats import BATS, NORMAL, Auxiliary, Config, packed
from vitrail.models.parts.bats_cells import OPERATIONS, Cell, Convolutions, Layer, Reduction

SMALL = Config(dim=12, cells=3, groups=4, image=(28, 20), classes=3)
MODES = pytest.mark.parametrize("mode", BINARISERS)


def picture(*shape, dtype=torch.float64):
    """Noise, channels last in memory."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


# ---- signs ----------------------------------------------------------------------------------


def test_sign_and_its_gradient():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    y = sign(x)
    assert y.tolist() == [-1, -1, -1, 0, 1, 1, 1]
    (y * torch.arange(1.0, 8)).sum().backward()
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def plain(x, weight, alpha, mode, stride, padding, dilation, groups):
    """The paper's formulas, one output channel at a time, on an input that is padded by hand."""
    if mode == "xnor_centred":
        weight = weight - weight.mean(1, keepdim=True)
    gains = weight.abs().flatten(1).mean(1) if mode.startswith("xnor") else torch.ones(len(weight))
    padded = F.pad(x.sign(), (padding,) * 4)
    per_in, per_out = x.shape[1] // groups, len(weight) // groups
    found = []
    for j, kernel in enumerate(weight):
        kernel = kernel if mode == "inputs" else kernel.sign()
        first = j // per_out * per_in
        y = F.conv2d(padded[:, first : first + per_in], kernel[None], None, stride, 0, dilation)
        found.append(y * gains[j] * alpha[j])
    return torch.cat(found, 1)


@MODES
@pytest.mark.parametrize("geometry", [(1, 1, 1, 4), (2, 4, 2, 2), (2, 1, 1, 1)])
def test_binary_convolution(mode, geometry):
    stride, padding, dilation, groups = geometry
    size = (8, 12, 5 if dilation == 2 else 3)
    layer = scattered(convolution(mode)(*size, stride, padding, dilation, groups))
    x = picture(2, 8, 11, 9)
    expected = plain(x, layer.weight, layer.alpha, mode, *geometry)
    with torch.no_grad():
        for form in (layer, deploy(layer)):
            assert torch.allclose(form(x), expected, rtol=0, atol=1e-12)


def test_border_adds_nothing():
    """Zeros lie behind the sign: the corner of a map of ones sums four of nine."""
    layer = BinaryConv2d(1, 1, 3, 1, 1, binariser=Plain())
    torch.nn.init.ones_(layer.weight)
    with torch.no_grad():
        y = layer(torch.full((1, 1, 3, 3), 0.1))
    assert y[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


@pytest.mark.parametrize("binariser", [Real(), Plain(), Xnor(), Xnor(centred=True)], ids=repr)
def test_gradient_of_weights(binariser):
    """Straight through the sign, and through gains and means as they are."""
    layer = BinaryConv2d(3, 4, 3, binariser=binariser).double()
    with torch.no_grad():
        layer.weight.copy_(picture(4, 3, 3, 3))
    x = picture(2, 3, 6, 6)
    layer(x).square().sum().backward()
    twin = layer.weight.detach().requires_grad_()
    through = twin - twin.mean(1, keepdim=True) if getattr(binariser, "centred", 0) else twin
    if binariser.whole:
        soft = F.hardtanh(through)
        gain = through.abs().mean((1, 2, 3), keepdim=True) if isinstance(binariser, Xnor) else 1
        through = (through.sign().detach() + soft - soft.detach()) * gain
    F.conv2d(x.sign(), through).square().sum().backward()
    assert torch.allclose(layer.weight.grad, twin.grad, rtol=1e-10)
    assert layer.alpha.grad.abs().min() > 0


# ---- bytes and bits -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sign", "xnor", "xnor_centred"])
@pytest.mark.parametrize(
    ("sizes", "geometry"),
    [
        ((24, 12, 1), (1, 0, 1, 1)),
        ((24, 24, 3), (1, 1, 1, 12)),
        ((24, 24, 5), (1, 4, 2, 12)),
        ((12, 24, 5), (2, 2, 1, 4)),
        ((8, 8, (1, 7)), ((1, 2), (0, 3), 1, 1)),
        ((20, 6, 1), (2, 0, 1, 2)),
    ],
)
def test_bytes_are_floats_bit_by_bit(mode, sizes, geometry, monkeypatch):
    """Zeros in inputs and weights, slices, other batches and sizes, and weights that change."""
    layer = scattered(convolution(mode)(*sizes, *geometry), 0.5).float()
    with torch.no_grad():
        layer.weight[0, 0] = 0
    bytewise = deploy(layer)
    assert isinstance(bytewise, ByteConv2d)
    with torch.no_grad():
        for shape in ((1, 9, 9), (3, 14, 5), (1, 9, 9)):
            x = picture(shape[0], sizes[0], *shape[1:], dtype=torch.float32)
            x[:, :, 2] = 0
            for view in (x, x.contiguous(), x[:, :, ::2, 1:]):
                assert torch.equal(bytewise(view), layer(view))
        monkeypatch.setattr(binary, "BYTES", False)
        assert torch.equal(bytewise(x), layer(x))
        monkeypatch.undo()
        before = bytewise(x)
        bytewise.signs.neg_()
        assert torch.equal(bytewise(x), -before)
        assert torch.equal(copy.deepcopy(bytewise)(x), -before)


def test_straight_is_batchnorm_bit_by_bit():
    """So no sign behind a deployed norm differs, even in float32."""
    norm = scattered(torch.nn.BatchNorm2d(24)).float()
    x = picture(3, 24, 33, 31, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(Straight(norm)(x).sign(), norm(x).sign())
        assert torch.allclose(Straight(norm)(x), norm(x), rtol=1e-6, atol=1e-6)


def test_bits():
    weight = picture(5, 3, 3, 3)
    bits = pack(weight)
    assert bits.dtype == torch.uint8 and bits.numel() == 17
    assert torch.equal(unpack(bits, (5, 3, 3, 3)), weight.sign().float())
    with pytest.raises(ValueError, match="exactly 0"):
        pack(weight * 0)
    with pytest.raises(ValueError, match="135 signs take 17 bytes"):
        unpack(bits[:16], (5, 3, 3, 3))


def test_packed_file(tmp_path):
    """A file of bits is read as the model that it is, and is smaller."""
    config = replace(SMALL, dim=24, groups=2, auxiliary=False)
    model = scattered(BATS(config)).float()
    sizes = []
    for name, state in (("bits", packed(model)), ("floats", model.state_dict())):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, state, metadata={})
        sizes.append(path.stat().st_size)
        again = vitrail.load(config, path)
        x = picture(2, 3, 28, 20, dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(again(x), model(x))
    whole = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    assert sizes[1] - sizes[0] >= 3.8 * whole
    with pytest.raises(ValueError, match="'xnor'"):
        packed(BATS(replace(config, binary="xnor")))


# ---- operations and cells -------------------------------------------------------------------


def shuffle(x):
    """Channel by channel: place i g + j is channel j C/g + i."""
    c = x.shape[1]
    return torch.stack([x[:, k % 4 * (c // 4) + k // 4] for k in range(c)], 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["sep_conv_3x3", "sep_conv_7x7", "dil_conv_5x5", "conv_7x1_1x7"])
def test_operation(name, stride):
    op = scattered(OPERATIONS[name](12, stride, 3, convolution("sign")))
    x = picture(2, 12, 9, 14)
    with torch.no_grad():
        y = x
        for layer in op.layers:
            y = F.prelu(layer.conv(layer.norm(y)), layer.act.weight)
        expected = x + shuffle(y) if stride == 1 else shuffle(y)
        assert torch.equal(op(x), expected)
        assert expected.shape[2:] == (-(-9 // stride), -(-14 // stride))
    assert [layer.conv.groups for layer in op.layers] == ([1, 1] if "1x7" in name else [3])
    side = max(op.layers[0].conv.kernel_size)
    assert name.endswith((f"_{side}x{side}", f"_1x{side}"))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree_on_size(name, stride):
    op = OPERATIONS[name](8, stride, 2, convolution("none")).eval()
    for size in ((6, 8), (5, 8), (7, 3), (1, 1)):
        expected = tuple(-(-side // stride) for side in size)
        assert op(torch.ones(1, 8, *size)).shape == (1, 8, *expected)


@pytest.mark.parametrize("mode", ["none", "sign"])
def test_reduction(mode):
    """As the authors' for even sides: every second pixel, and from the second row and column."""
    m = scattered(Reduction(6, 8, convolution(mode)))
    x = picture(2, 6, 8, 10)
    with torch.no_grad():
        y = m.norm(x)
        halves = [m.conv1(y[:, :, ::2, ::2]), m.conv2(y[:, :, 1:, 1:][:, :, ::2, ::2])]
        expected = F.prelu(torch.cat(halves, 1), m.act.weight)
        assert torch.equal(m(x), expected)
        odd = m(x[:, :, :7, :9])
        assert torch.allclose(odd[:, :, :3, :4], expected[:, :, :3, :4], atol=1e-12)
        assert odd.shape[2:] == (4, 5) and not odd[:, 4:, 3].any()  # only zeros lie there


def test_average_pool_leaves_padding_out():
    pool = OPERATIONS["avg_pool_3x3"](4, 2, 1, convolution("none"))
    assert torch.equal(pool(torch.ones(1, 4, 5, 5)), torch.ones(1, 4, 3, 3))


def test_cell_of_nothing_and_of_one_node():
    """Fewer nodes, a concat of some of them, and `none`; a cell as wide as the next has a
    shortcut around its 1x1."""
    genotype = (("none", 0), ("skip_connect", 1), ("none", 2), ("none", 2))
    config = replace(SMALL, normal=genotype, normal_concat=(2,), binary="none")
    model = BATS(config).eval()
    first = model.blocks[0]
    assert first.concat == (2,) and model.levels[0].channels == 12
    entered = BATS(replace(config, cells=6)).blocks[1].enter1
    assert isinstance(entered, Convolutions) and entered.shortcut
    x = picture(2, 28, 20, 36, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(first(x, x), first.enter1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_drop_path_leaves_identities():
    """In training a sample keeps all of an operation or nothing; identities are never dropped."""
    torch.manual_seed(0)
    genotype = (("skip_connect", 0), ("sep_conv_3x3", 1))
    sizes = {"reduces": False, "shrinks": False, "make": convolution("none")}
    cell = Cell(genotype, (), (8, 8), 8, 2, **sizes, operations=OPERATIONS, drop_path=0.5).double()
    cell.enter0 = cell.enter1 = torch.nn.Identity()
    x = picture(64, 8, 5, 5).permute(0, 2, 3, 1)
    with torch.no_grad():
        change = (cell.train()(x, x) - x).flatten(1)
        whole = cell.ops[1](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1)
    kept = change.abs().amax(1) > 0
    assert 16 < int(kept.sum()) < 48
    assert torch.allclose(change[kept], 2 * whole[kept])


# ---- the network ----------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_binary_nets_deploy_exactly(mode, stem):
    config = replace(SMALL, dim=24, binary=mode, stem=stem, image=(53, 64))
    model = scattered(BATS(config))
    x = picture(2, 3, 53, 64)
    with torch.no_grad():
        expected, deployed = model(x), deploy(model)
        assert (deployed(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in deployed.modules())


def test_deployed_cells_are_equal_in_float32():
    """All cells of a binary net, bit by bit as they are trained."""
    model = scattered(BATS(SMALL)).float()
    deployed = deploy(model)
    x = picture(2, 36, 28, 20, dtype=torch.float32).permute(0, 2, 3, 1)
    with torch.no_grad():
        before = last = x
        for cell, other in zip(model.blocks, deployed.blocks, strict=True):
            found = other(before, last)
            before, last = last, cell(before, last)
            assert torch.equal(found, last)


COMPILE = """
import torch
from vitrail.layers.binary import BINARISERS, convolution
from vitrail.models.parts.bats_cells import Convolutions, Layer
for mode in BINARISERS:
    torch.manual_seed(0)
    layer = Layer(8, 8, convolution(mode)(8, 8, 5, 1, 4, 2, groups=4))
    model = Convolutions(layer, shuffle=True, shortcut=True).double().eval()
    x = torch.randn(2, 8, 9, 7).double()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), rtol=1e-10), mode
    found = []
    for run in (compiled.train(), model):
        run(x).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-8) for a, b in zip(*found, strict=True)), mode
"""


@pytest.mark.slow
def test_binary_layers_compile_whole():
    """Outputs, and gradients in training; in float64, where no rounding turns a sign. In a fresh
    process: dynamo cannot trace the shape checks."""
    command = [sys.executable, "-c", COMPILE]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


@MODES
def test_binary_layer_in_onnx(mode, tmp_path):
    """On an input whose normed values are away from zero, as rounding could turn a sign there."""
    import onnxruntime

    conv = convolution(mode)(8, 8, 5, 1, 4, 2, groups=4)
    layer = Convolutions(Layer(8, 8, conv), shuffle=True, shortcut=True)
    layer = scattered(layer).float()
    norm = layer.layers[0].norm
    with torch.no_grad():
        normed = picture(3, 8, 9, 7, dtype=torch.float32)
        normed += 0.1 * normed.sign()
        spread = (norm.running_var + norm.eps).sqrt() / norm.weight
        x = (normed - norm.bias[:, None, None]) * spread[:, None, None]
        x = x + norm.running_mean[:, None, None]
        expected = layer(x).numpy()
    path = tmp_path / "layer.onnx"
    shapes = ({0: "batch"},)
    torch.onnx.export(deploy(layer), (x,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_bfloat16_sums_are_exact():
    """A binary sum up to 256 is exact in bfloat16, so a layer of signs is off by its scale only."""
    layer = scattered(convolution("sign")(24, 24, 3, 1, 1, groups=4)).float()
    x = picture(2, 24, 9, 9, dtype=torch.float32)
    with torch.no_grad():
        expected = layer(x)
        for form in (layer, deploy(layer)):
            found = form.to(torch.bfloat16)(x.bfloat16())
            assert found.dtype == torch.bfloat16
            assert torch.allclose(found.float(), expected, rtol=2**-7)


def test_auxiliary_head():
    """Two logits in training, one in eval mode; gone when deployed; small maps are enough."""
    model = BATS(replace(SMALL, drop_path=0.3))
    x = picture(4, 3, 28, 20, dtype=torch.float32)
    main, auxiliary = model.train()(x)
    assert main.shape == auxiliary.shape == (4, 3)
    assert model.eval()(x).shape == (4, 3)
    assert {model.depth_of(n) for n, _ in model.auxiliary.named_parameters("auxiliary")} == {
        model.depth
    }
    assert not [n for n in deploy(model).state_dict() if n.startswith("auxiliary")]
    head = Auxiliary(8, 3, 3).eval()
    for sides in ((1, 1), (5, 9), (8, 8), (14, 20)):
        assert head(torch.ones(2, *sides, 8)).shape == (2, 3)


def test_checkpoint_with_or_without_auxiliary_head():
    """The authors' state always has one; it is dropped where the config has none."""
    table = "1adrianb/binary-networks-pytorch"
    state = {"auxiliary_head.classifier.weight": torch.ones(3, 768)}
    for auxiliary, expected in ((True, ["auxiliary.linear.weight"]), (False, [])):
        rows = vitrail.models.families()["bats"].NAMES[table](replace(SMALL, auxiliary=auxiliary))
        assert list(checkpoint.rename(state, rows)) == expected


def test_names_of_the_imagenet_net():
    """The authors' names of its stem and of a factorised convolution, which no golden has."""
    normal = (("conv_7x1_1x7", 0), ("conv_7x1_1x7", 1))
    config = replace(SMALL, stem="imagenet", normal=normal)
    theirs = ["stem0.0", "stem0.1", "stem0.3", "stem0.4", "stem1.1", "stem1.2"]
    theirs += [f"cells.0._ops.0.op.{k}" for k in range(6)]
    theirs += [f"cells.0._ops.1.op.{k}.activation_post_process.alpha" for k in (1, 4)]
    theirs = [n if n.endswith("alpha") else f"{n}.weight" for n in theirs]
    rows = vitrail.models.families()["bats"].NAMES["1adrianb/binary-networks-pytorch"](config)
    found = checkpoint.rename({n: torch.zeros(1, 12, 1, 1) for n in theirs}, rows)
    own = BATS(config).state_dict()
    assert len(found) == len(theirs) and found.keys() <= own.keys()


def test_two_stages():
    first = scattered(BATS(replace(SMALL, binary="inputs")))
    x = picture(2, 3, 28, 20)
    for mode in ("sign", "xnor", "xnor_centred"):
        second = first.binarised(mode)
        assert second.config.binary == mode and first.config.binary == "inputs"
        assert all(
            torch.equal(a, b)
            for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        )
        fresh = vitrail.load(second.config, first.state_dict(), dtype=torch.float64)
        with torch.no_grad():
            assert torch.allclose(second(x), fresh(x)) and not torch.allclose(second(x), first(x))
    for model, mode in ((second, "sign"), (first, "none"), (first, "inputs")):
        with pytest.raises(ValueError, match="not a second stage"):
            model.binarised(mode)


def test_imagenet_stem_rectifies_its_first_map():
    """The authors' ReLU is in place: the first cell reads no negative value of the first map."""
    model = scattered(BATS(replace(SMALL, stem="imagenet", image=(64, 64))))
    with torch.no_grad():
        before, last = model.stem(picture(1, 3, 64, 64))
    assert before.shape == (1, 16, 16, 12) and last.shape == (1, 8, 8, 12)
    assert before.min() == 0 and last.min() < 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dim": 10}, "dim is 10; the channel shuffle has 4 groups"),
        ({"groups": 5}, "groups are 5; they should divide the dim, 12"),
        ({"groups": 0}, "groups is 0: expected at least 1"),
        ({"cells": 2}, "cells are 2"),
        ({"stem": "large"}, "stem is 'large'"),
        ({"stem": "imagenet", "dim": 64}, "dim is 64; the imagenet stem has dim // 20 groups, 3"),
        ({"binary": "tanh"}, "binary is 'tanh'; expected one of none, inputs, sign"),
        ({"normal": NORMAL[:3]}, "3 edges"),
        ({"reduce": (("conv_9x9", 0), ("none", 1))}, "'conv_9x9'"),
        ({"normal": (("none", 0), ("none", 2))}, "reads state 2"),
        ({"normal_concat": (2, 6)}, r"concat is \(2, 6\)"),
        ({"reduce_concat": (2, 2)}, r"concat is \(2, 2\)"),
    ],
)
def test_bad_config(changes, match):
    with pytest.raises(ConfigError, match=match):
        vitrail.create(replace(SMALL, **changes))


@pytest.mark.slow
def test_grouped_cells_stand_being_binary():
    """The paper's reason for its search space: cells of grouped convolutions learn more when
    binary than the same cells of separable ones. `bench/bats.py --train` finds 70.3 and 65.3 %."""
    from pathlib import Path
    from runpy import run_path

    bench = run_path(str(Path(__file__).parents[1] / "bench/bats.py"))
    data = bench["parts"]()
    config = replace(SMALL, image=(28, 28), channels=1, classes=10, auxiliary=False)
    scores = []
    for operations in (OPERATIONS, bench["SEPARABLE"]):
        torch.manual_seed(0)
        model = BATS(config, operations=operations)
        scores.append(bench["accuracy"](model, data, seed=0, epochs=2))
    assert scores[0] > scores[1] + 2
