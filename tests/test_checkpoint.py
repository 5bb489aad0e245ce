"""Reading, renaming and strict loading; nothing in a file is ever executed."""

from __future__ import annotations

import json
import os
import pickle

import msgpack
import numpy as np
import pytest
import torch
from torch import nn

import vitrail
from vitrail import checkpoint, models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.vit import Config

SMALL = Config(dim=32, depth=2, heads=2, hidden=64, patch=8, image=(32, 48), classes=5)


def state():
    torch.manual_seed(0)
    return {k: torch.randn_like(v) for k, v in vitrail.create(SMALL).state_dict().items()}


def test_rows_rename_in_order():
    ones, twos = torch.ones(2), torch.full((2,), 2.0)
    found = checkpoint.rename(
        {
            "layers.0.down.w": ones,
            "layers.0.b.attn.q": ones,
            "layers.0.b.attn.k": twos,
            "layers.0.b.attn.mask": ones,
            "both": torch.arange(4.0),
            "extra": ones,
        },
        [
            (".attn.mask", None),
            (".attn.q", ".mixer.qk[0/2]"),
            (".attn.k", ".mixer.qk[1/2]", lambda v: v * 10),
            ("layers.{i}.down.", "stages.{i+1}.down."),
            ("layers.{i}.", "stages.{i}."),
            ("both", ("head[+]", "tail"), lambda v: (v[:2], v[2:])),
            ("extra", "head[+]"),
        ],
    )
    assert found.keys() == {"stages.1.down.w", "stages.0.b.mixer.qk", "head", "tail"}
    assert found["stages.0.b.mixer.qk"].tolist() == [1, 1, 20, 20]
    assert found["head"].tolist() == [1, 2] and found["tail"].tolist() == [2, 3]


def test_rows_are_anchored_unless_they_begin_with_a_dot():
    rows = [("norm.", "a."), (".norm.", ".b.")]
    found = checkpoint.rename(dict.fromkeys(["norm.w", "x.norm.w"], torch.ones(1)), rows)
    assert found.keys() == {"a.w", "x.b.w"}


def test_missing_part_and_clash():
    with pytest.raises(CheckpointError, match="1 of the 3 parts of qkv"):
        checkpoint.rename({"q": torch.ones(1)}, [("q", "qkv[0/3]")])
    with pytest.raises(CheckpointError, match="two entries"):
        checkpoint.rename(dict.fromkeys(["a", "b"], torch.ones(1)), [("a", "b")])


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_files_and_wrappers(tmp_path, wrapper, suffix):
    path, expected = tmp_path / f"weights{suffix}", state()
    if suffix == ".pth":
        values = {f"module.{k}": v for k, v in expected.items()}
        torch.save({wrapper: values, "epoch": 3}, path)
    elif suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in expected.items()})
    else:
        checkpoint.save(path, expected, metadata={"why": wrapper})
    model = vitrail.load(SMALL, path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_dtype_and_no_sharing():
    given = state()
    model = vitrail.load(SMALL, given, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    same = vitrail.load(SMALL, given)
    with torch.no_grad():
        same.head.weight.add_(1)
    assert not torch.equal(same.head.weight, given["head.weight"])


def test_other_image_size():
    moved = vitrail.load(SMALL, state(), image=(64, 48))
    assert moved.config.image == (64, 48)
    assert moved.embed.position.shape == (1, 8 * 6, 32)
    # Resampling on the way, at the old config, is the same function.
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.allclose(moved(x), vitrail.load(SMALL, state())(x), atol=1e-5)


def test_the_name_of_a_file_decides_between_families_with_the_same_tensors(tmp_path):
    weights = vitrail.create("deit_tiny").state_dict()
    for file, name, other in (
        ("deit_tiny_patch16_224-a1311bcf.pth", "deit_tiny", "vit_ti16"),
        ("vit_tiny_patch16_224.augreg.pth", "vit_ti16", "deit_tiny"),
    ):
        torch.save(weights, tmp_path / file)
        found = vitrail.identify(tmp_path / file)
        assert found.name == name and other in found.same


def test_own_weights_say_what_they_are(tmp_path):
    """A searched config has no name in the catalog; the file that vitrail wrote carries it."""
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, state(), metadata={"config": models.config_json(SMALL)})
    found = vitrail.identify(path)
    assert found.config == SMALL and found.source == "vitrail"
    assert vitrail.load(found.config, path).config == SMALL
    assert checkpoint.metadata(state()) == checkpoint.metadata(tmp_path / "no.safetensors") == {}


@pytest.mark.parametrize("family", sorted(models.families()))
def test_other_channels(family):
    """Equal channels give what they gave in three: for one, two, four or thirteen of them."""
    config = next(models.small_configs(family, image=(56, 56), channels=3, classes=5))
    torch.manual_seed(0)
    model = vitrail.create(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)  # some heads start at zero
        grey = torch.randn(2, 1, 56, 56, dtype=torch.float64)
        expected = model(grey.expand(-1, 3, -1, -1))
        if family == "t2t_vit":  # norms unfolded pixels of all channels together
            with pytest.raises(CheckpointError, match="cannot be adapted; convert the images"):
                vitrail.load(config, model.state_dict(), channels=1)
            return
        for channels in (1, 2, 4, 13):
            moved = vitrail.load(config, model.state_dict(), channels=channels, dtype=torch.float64)
            assert moved.config.channels == channels
            got = moved(grey.expand(-1, channels, -1, -1))
            # A standardised kernel is divided by its deviation plus a constant, which does not
            # grow with the kernel.
            limit = 1e-8 if family == "vit_hybrid" else 1e-10
            assert (got - expected).abs().max() <= limit * max(1, float(expected.abs().max()))


def test_strict():
    short = state()
    del short["blocks.1.ffn.fc1.bias"]
    short["blocks.7.spare"] = torch.ones(3)
    short["head.weight"] = torch.ones(5, 31)
    with pytest.raises(CheckpointError) as error:
        vitrail.load(SMALL, short)
    for part in ("1 missing (blocks.1.ffn.fc1.bias)", "1 unexpected (blocks.7.spare)", "(5, 31)"):
        assert part in str(error.value)


def test_another_architecture_is_named():
    with torch.device("meta"):
        wrong = vitrail.create("resnet_18").state_dict()
    state = {k: torch.zeros(v.shape) for k, v in wrong.items()}
    with pytest.raises(CheckpointError, match="it is resnet_18 in vitrail names"):
        vitrail.load("vit_ti16", state)
    with pytest.raises(CheckpointError, match="no model of the catalog has these 2 tensors"):
        vitrail.identify({"a": torch.ones(1), "b": torch.ones(1)})


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"model": {"head.weight": torch.ones(1)}, "args": Bomb(mark)}, path)
    with pytest.raises(CheckpointError, match="refused"):
        vitrail.identify(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointError):
        vitrail.identify(path)
    evil = tmp_path / "evil.npz"
    np.savez(evil, a=np.array([Bomb(mark)], dtype=object))
    with pytest.raises(CheckpointError):
        vitrail.identify(evil)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".msgpack"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".msgpack":
        path.write_bytes(msgpack.packb({"params": {"head": {"kernel": b"0" * 100}}}))
    elif suffix == ".pth":
        torch.save(state(), path)
    elif suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state().items()})
    elif suffix == ".safetensors":
        checkpoint.save(path, state(), metadata={})
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cannot be read|refused"):
            vitrail.identify(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        vitrail.identify(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        vitrail.identify(tmp_path)


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, {"a": torch.ones(1)}, metadata={})

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"a": torch.zeros(1)}, metadata={})
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert checkpoint.read(path)["a"].item() == 1


def test_files_have_the_permissions_of_the_umask_and_a_digest(tmp_path):
    path = tmp_path / "w.safetensors"
    before = os.umask(0o022)
    try:
        checkpoint.save(path, state(), metadata={"config": models.config_json(SMALL)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    whole = path.read_bytes()
    assert vitrail.identify(path).config == SMALL
    changed_name = whole.replace(b"blocks.1.norm1.bias", b"blocks.1.norm1.bios")
    changed_config = whole.replace(b'\\"depth\\": 2', b'\\"depth\\": 3')
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (changed_name, changed_config, bytes(flipped)):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not those that vitrail wrote, by their digest"):
            vitrail.load(SMALL, path)


def test_files_without_a_digest_are_read(tmp_path):
    from safetensors.torch import save_file

    expected = {k: v.contiguous() for k, v in state().items()}
    config = json.dumps({"config": models.config_json(SMALL)})
    save_file(expected, tmp_path / "old.safetensors", metadata={"vitrail": config})
    assert vitrail.identify(tmp_path / "old.safetensors").config == SMALL


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(state(), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="Bad CRC-32"):
        vitrail.load(SMALL, path)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"config": {"family": "cct", "depth": 10**7}}, "depth is 10000000: expected at most"),
        ({"config": {"family": "cct", "depth": 900}}, "blocks for"),
        ({"config": {"family": "cct", "depth": "many"}}, "depth: 'many' is not a whole number"),
        ({"config": {"family": "vit", "image": [10**9, 1]}}, "image is 1000000000"),
        ({"config": {"family": ["cct"]}}, "family 'list' is unknown"),
        ({"config": {"family": "vit", "heads": 0}}, "heads is 0: expected at least 1"),
        ({"config": 5}, "a config is int"),
        ({"config": {"family": "resnet"}}, "missing"),
    ],
)
def test_a_config_in_a_file_is_checked_before_it_is_built(tmp_path, written, said):
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, state(), metadata=written)
    with pytest.raises(CheckpointError, match="is not of its weights") as error:
        vitrail.identify(path)
    assert said in str(error.value)


@pytest.mark.parametrize("written", [5, None, "a", [1], {"other": 1}])
def test_metadata_of_another_form_is_passed_over(tmp_path, written):
    config = models.resolve("cct_2_3x2_32")
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, vitrail.create(config).state_dict(), metadata=written)
    assert vitrail.identify(path).name == "cct_2_3x2_32"
    assert not checkpoint.metadata(path).get("config")


def test_metadata_without_end(tmp_path):
    from safetensors.torch import save_file

    deep = {"vitrail": "[" * 100_000}
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=deep)
    with pytest.raises(CheckpointError, match="no model of the catalog"):
        vitrail.identify(tmp_path / "w.safetensors")


def test_names_and_fields():
    with pytest.raises(ConfigError, match="did you mean vit_ti16"):
        vitrail.create("vit_t16")
    with pytest.raises(ConfigError, match="dims: no such field"):
        vitrail.create("vit_ti16", dims=3)
    with pytest.raises(ConfigError, match="heads"):
        vitrail.create("vit_ti16", heads=5)
    with pytest.raises(ConfigError, match="image is 225x224"):
        vitrail.create("vit_ti16", image=(225, 224))


def test_batch_counter_may_be_absent():
    torch.manual_seed(0)
    model = vitrail.create("resnet_18", classes=2)
    given = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    loaded = vitrail.load(model.config, given)
    assert isinstance(loaded, nn.Module)
    del given["stem.convs.0.norm.running_mean"]
    with pytest.raises(CheckpointError, match=r"stem\.convs\.0\.norm\.running_mean"):
        vitrail.load(model.config, given)
