"""ViTAS: the authors' code words, empty slots, and the super-transformer with its candidates."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support import golden

import vitrail
from vitrail import checkpoint
from vitrail.models.vitas import HEADS, Config, ViTAS
from vitrail.search.supernets.indices import Prefix, Suffix
from vitrail.search.supernets.vitas import NAMES, Super

# heads/attention/hidden of every slot, as published beside the code words
TABLES = {
    "vitas_858m": "12/288/1008 - 16/720/576 - - 6/288/1296 16/1008/720 - 16/1152/1008 - - - - "
    "16/864/1152 16/1440/1296 -",
    "vitas_1g": "16/288/864 - - 16/432/576 - 16/432/1008 - - 12/1152/864 12/1008/720 - "
    "12/864/576 16/432/1296 - - 6/864/864",
    "vitas_2_7g": "16/720/720 - 16/1008/864 - 16/864/1008 6/864/1008 - 3/576/720 - "
    "12/1296/1296 6/1296/1152 12/720/144 - 12/1440/864 6/576/1008 12/1152/1296",
    "vitas_4_9g": "16/864/1728 16/288/2304 16/1728/864 16/1152/2016 16/2016/864 16/1440/1440 "
    "16/2592/2304 16/1440/2016 16/2304/864 16/2016/576 16/2016/2016 16/1728/2304 16/1440/2304",
}


@pytest.mark.parametrize("name", TABLES)
def test_code_words(name):
    config = vitrail.catalog()[name].config
    rows = [(0, 0, 0) if r == "-" else tuple(map(int, r.split("/"))) for r in TABLES[name].split()]
    assert [*zip(config.heads, config.attention, config.hidden, strict=True)] == rows


def test_empty_slots_count_for_stochastic_depth():
    config = Config(heads=(3, 0, 3), attention=(9, 0, 9), hidden=(4, 0, 4), drop_path=0.2)
    assert [block.drop_path.rate for block in ViTAS(config).blocks] == [0.0, 0.2]


def test_scale_is_of_the_tokens():
    """Ten channels, three heads of two: the scale is 3**-0.5, and logits are that of the paper."""
    config = Config(dim=10, heads=(3,), attention=(18,), hidden=(4,), image=(32, 32), classes=2)
    torch.manual_seed(0)
    mixer = vitrail.create(config).double().blocks[0].mixer
    x = torch.randn(5, 10, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).split(6, 1)
        rows = []
        for head in (slice(0, 2), slice(2, 4), slice(4, 6)):
            seen = torch.softmax(q[:, head] @ k[:, head].T * 3**-0.5, 1)
            rows.append(seen @ v[:, head])
        expected = torch.cat(rows, 1) @ mixer.proj.weight.T + mixer.proj.bias
        assert (mixer(x[None])[0] - expected).abs().max() <= 1e-12


def test_released_super_transformer():
    expected = golden.read(golden.FOLDER / "blocks" / "vitas_super_p16.json")
    widest = Config(dim=96, heads=(3,) * 4, attention=(1440,) * 4, hidden=(240,) * 4, classes=10)
    model = Super(widest).double().eval()
    released = sum(p.numel() for p in model.parameters()) + 96 * len(model.stems)
    assert released == expected["params"]  # their positions have a row for the class token
    checkpoint.assign(model, checkpoint.rename(golden.state(expected), NAMES), dtype=torch.float64)
    # path 1 | 0 3 4 1 | 0 0 | 0.5 | 1.0 0.6, 0.5 1.0, 0.3 0.3: the empty slot passes its ratios on
    path = replace(
        widest, dim=48, heads=(3, 16, 0, 6), attention=(1440, 720, 0, 432), hidden=(144, 240, 0, 72)
    )
    image = golden.image(expected["input_shape"])
    with torch.no_grad():
        sides = {"left": model(image, path, Prefix()), "right": model(image, path, Suffix())}
    sides = {f"logits_{side}": logits for side, logits in sides.items()}
    outputs = {**sides, "train_logits": sum(sides.values())}
    for name, figures in expected["outputs"].items():
        assert golden.deviation(outputs[name], figures) <= 1e-6, name


SMALL = Config(
    dim=24, heads=(2,) * 3, attention=(48,) * 3, hidden=(40,) * 3, image=(28, 28), channels=1
)


def test_a_candidate_trains_the_shared_weights():
    """Gradients reach what a candidate inherits and nothing else; it lives on by itself."""
    torch.manual_seed(0)
    shared = Super(SMALL, patches=(4, 7), heads=(2, 4)).double()
    path = replace(
        SMALL, dim=12, patch=7, heads=(4, 0, 2), attention=(24, 0, 48), hidden=(20, 0, 8)
    )
    image = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    logits = shared(image, path, Prefix())
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    touched = {n for n, p in shared.named_parameters() if p.grad is not None}
    assert not any(n.startswith(("stems.0.", "blocks.1.", "blocks.0.mixer.qk.0")) for n in touched)
    gradient = shared.blocks[0].ffn.fc1.weight.grad
    assert gradient[:20, :12].abs().min() > 0 and not gradient[20:].any()
    alone = vitrail.load(path, shared.inherited(path, Prefix()), dtype=torch.float64)
    assert (alone(image) - logits).abs().max() <= 1e-12


def test_refusals():
    for heads, attention, match in (((3,), (20,), "multiple of 9"), ((0,), (9,), "slot with")):
        with pytest.raises(vitrail.errors.ConfigError, match=match):
            vitrail.create(Config(heads=heads, attention=attention, hidden=(4,)))
    with pytest.raises(vitrail.errors.ConfigError, match=r"30x32; .* multiples of 16"):
        vitrail.create("vitas_1_3g", image=(30, 32))
    shared = Super(SMALL, patches=(4, 7), heads=(2, 4))
    with pytest.raises(ValueError, match="patches \\(4, 7\\)"):
        shared.inherited(replace(SMALL, patch=14), Prefix())
    with pytest.raises(ValueError, match="no wider"):
        shared.inherited(replace(SMALL, patch=4, dim=30), Prefix())


def test_heads_and_slots():
    config = vitrail.catalog()["vitas_858m"].config
    assert config.filled == [0, 2, 5, 6, 8, 13, 14] and set(config.heads) <= set(HEADS)
