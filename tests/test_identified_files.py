"""What common training scripts and publishers write loads, whatever lies around the weights."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from support.peers import torchvision
from torch import nn

import vitrail
from vitrail import checkpoint
from vitrail.errors import CheckpointError
from vitrail.models import Identity, catalog
from vitrail.run.normalisation import normalisation
from vitrail.search.shelf import shelf


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).half().eval()


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


def prefixed(state, prefix, head=None):
    head = prefix if head is None else head
    return {(head if k.startswith("fc.") else prefix) + k: v for k, v in state.items()}


def averaged(network):
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def parameters(state):
    return {k: v + 1 for k, v in state.items() if "running" not in k and "num_b" not in k}


SCRIPTS = {
    "imagenet_example": lambda n, s: {
        "epoch": 9, "arch": "resnet18", "state_dict": prefixed(s, "module."),
        "best_acc1": torch.tensor(71.0), "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}},
    },
    "tutorial": lambda n, s: {
        "epoch": 5, "model_state_dict": s, "optimizer_state_dict": {"state": {}}, "loss": 0.4
    },
    "tutorial_tensor": lambda n, s: {"model_state_dict": s, "loss": torch.tensor(0.4)},
    "weights": lambda n, s: {"weights": s},
    "net": lambda n, s: {"my_network": s, "optimizer": {"big": torch.ones(12_000_000)}},
    "ema": lambda n, s: {"model": {k: v * 0 for k, v in s.items()}, "ema": {"module": s}},
    "teacher": lambda n, s: {"teacher": prefixed(s, "backbone."), "student": {}},
    "compiled_ddp": lambda n, s: prefixed(s, "_orig_mod.module."),
    "ddp_compiled": lambda n, s: prefixed(s, "module._orig_mod."),
    "inner_compiled": lambda n, s: {"model": prefixed(s, "model.backbone._orig_mod.")},
    "lightning": lambda n, s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(5)},
        "hyper_parameters": Namespace(lr=0.1), "callbacks": {"a": {"best": torch.ones(3)}},
    },
    "backbone_head": lambda n, s: {"state_dict": prefixed(s, "backbone.", "head.")},
    "backbone_classifier": lambda n, s: {
        ("classifier." + k[3:] if k.startswith("fc.") else "backbone." + k): v
        for k, v in s.items()
    },
    "averager": lambda n, s: averaged(n),
    "profiler": lambda n, s: {
        **s, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)
    },
    "namespace": lambda n, s: {"model": s, "args": Namespace(lr=0.1, out=Path("runs/x"))},
    "numpy_scalar": lambda n, s: {"state_dict": s, "metric": np.float64(81.3)},
    "path": lambda n, s: {"model": s, "output_dir": Path("runs/x")},
    "ordered": lambda n, s: OrderedDict(s),
    "whole": lambda n, s: n,
    "whole_ddp": lambda n, s: {"epoch": 1, "model": nn.DataParallel(n)},
    "pruned": lambda n, s: {
        **{k: v for k, v in s.items() if k != "conv1.weight"},
        "conv1.weight_orig": s["conv1.weight"],
        "conv1.weight_mask": torch.ones_like(s["conv1.weight"]),
    },
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_training_script_writes(script, tmp_path, network, state):
    path = tmp_path / "file.pth"
    torch.save(SCRIPTS[script](network, state), path)
    found = vitrail.identify(path)
    assert (found.name, found.config.classes) == ("resnet_18", 5)
    model = vitrail.load("resnet_18", path)
    assert torch.equal(model.head.weight, state["fc.weight"].float())
    assert torch.equal(model.stem.convs[0].conv.weight, state["conv1.weight"].float())


def test_averages_of_parameters_take_the_buffers_of_the_model(tmp_path, state):
    torch.save({"model": state, "model_ema": parameters(state)}, tmp_path / "a.pth")
    read = checkpoint.read(tmp_path / "a.pth")
    assert torch.equal(read["conv1.weight"], state["conv1.weight"] + 1)
    assert torch.equal(read["bn1.running_var"], state["bn1.running_var"])


def test_the_older_format_and_plain_pickles(tmp_path, network, state):
    torch.save({"model": state}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    torch.save(network, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    arrays = {k: v.numpy() for k, v in state.items()}
    for protocol in (2, 4):
        with (tmp_path / f"c{protocol}.pkl").open("wb") as file:
            pickle.dump({"model": arrays, "matching_heuristics": True}, file, protocol=protocol)
    for name in ("a.pth", "b.pth", "c2.pkl", "c4.pkl"):
        read = checkpoint.read(tmp_path / name)
        assert all(torch.equal(read[k], v) for k, v in state.items()), name


def test_a_scripted_network(tmp_path):
    network = torchvision.models.resnet18(num_classes=5).eval()
    torch.jit.save(torch.jit.script(network), tmp_path / "a.pt")
    found = vitrail.identify(tmp_path / "a.pt")
    assert (found.name, found.config.classes) == ("resnet_18", 5)


def sharded(folder, state):
    """A model in two files with an index, as libraries save large ones."""
    from safetensors.torch import save_file

    names = list(state)
    parts = {"model-1.safetensors": names[:50], "model-2.safetensors": names[50:]}
    for file, own in parts.items():
        save_file({k: state[k].contiguous() for k in own}, folder / file)
    places = {k: file for file, own in parts.items() for k in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_folders_of_libraries_and_of_shards(tmp_path, state):
    sharded(tmp_path, state)
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert vitrail.identify(source).name == "resnet_18"
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the file model-2\.safetensors, which"):
        vitrail.identify(tmp_path)
    places = json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    (tmp_path / "model.safetensors.index.json").write_text(places)
    with pytest.raises(CheckpointError, match="which is missing"):
        vitrail.identify(tmp_path)


def test_addresses_and_folders_are_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"https://a\.b/c\.pth is an address: download"):
        vitrail.load("resnet_18", "https://a.b/c.pth")
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors"):
        vitrail.load("resnet_18", tmp_path)


# ---- heads -------------------------------------------------------------------------------


def test_a_name_takes_the_classes_of_the_file_and_a_new_head_on_request(state):
    assert vitrail.load("resnet_18", state).config.classes == 5
    ten = vitrail.load("resnet_18", state, classes=10)
    assert ten.config.classes == 10 and ten.head.weight.shape == (10, 512)
    assert torch.equal(ten.stem.convs[0].conv.weight, state["conv1.weight"].float())
    none = vitrail.load("resnet_18", state, classes=0)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(none(x), none.embedding(x)) and none(x).shape == (1, 512)
    headless = {k: v for k, v in state.items() if not k.startswith("fc.")}
    assert vitrail.load("resnet_18", headless).config.classes == 0
    assert vitrail.load("resnet_18", headless, classes=3).config.classes == 3
    with pytest.raises(CheckpointError, match=r"fc\.weight \(5, 512\) for \(1000, 512\)"):
        vitrail.load(catalog()["resnet_18"].config, state)  # a Config is taken at its word


def test_compare_takes_five_classes_by_name(tmp_path, state):
    from vitrail.jobs.compare import compare

    torch.save(state, tmp_path / "a.pth")
    named = f"resnet_18={tmp_path / 'a.pth'}"
    assert compare(named, tmp_path / "a.pth", image=(64, 64)).first is None


# ---- values ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_no_model_should_have(tmp_path, state, value):
    spoiled = {**state, "layer2.0.bn1.running_var": state["layer2.0.bn1.running_var"].clone()}
    spoiled["layer2.0.bn1.running_var"][3] = value
    torch.save(spoiled, tmp_path / "a.pth")
    for read in (vitrail.identify, lambda file: vitrail.load("resnet_18", file)):
        with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.running_var holds values"):
            read(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.to(torch.complex64), "conv1.weight, which is complex"),
        (lambda v: v.float().to_sparse(), "conv1.weight, which is sparse"),
        (lambda v: v.to(torch.int8), "conv1.weight is int8"),
        (lambda v: v.bool(), "conv1.weight is bool"),
        (lambda v: v.to("meta"), "conv1.weight"),
    ],
)
def test_tensors_of_other_kinds(tmp_path, state, change, said):
    odd = {**state, "conv1.weight": change(state["conv1.weight"])}
    torch.save(odd, tmp_path / "a.pth")
    for source in (odd, tmp_path / "a.pth"):
        with pytest.raises(CheckpointError, match=said):
            vitrail.load("resnet_18", source)


# ---- normalisation -----------------------------------------------------------------------

HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)


def identity(name, classes=1000, channels=3):
    from vitrail.models import resolve

    return Identity(name, "timm", resolve(name, classes=classes, channels=channels))


def test_normalisation_is_that_of_the_variant():
    half = [n for n, v in catalog().items() if v.family == "maxvit" and v.mean == HALF]
    assert len(half) == 14 and "maxvit_tiny_384" in half
    assert catalog()["maxvit_tiny"].mean == IMAGENET
    assert catalog()["volo_d5_512"].crop_pct == 1.15
    assert catalog()["resnet_50"].interpolation == "bilinear"
    for file in ("maxvit_tiny_tf_384.in1k.safetensors", "maxvit_tiny_tf_384.safetensors", "x.pth"):
        assert normalisation(file, identity("maxvit_tiny_384")).mean == HALF, file
    assert normalisation("maxvit_tiny_tf_224.in1k.pth", identity("maxvit_tiny")).mean == IMAGENET
    # The same network, trained by others on other values.
    assert normalisation("vit_base_patch16_224.dino.pth", identity("vit_b16")).mean == IMAGENET
    assert normalisation("vit_base_patch16_224.augreg_in1k", identity("vit_b16")).mean == HALF
    assert normalisation("x.pth", identity("vit_b16")).mean == HALF


@pytest.mark.parametrize(
    ("file", "record", "expected"),
    [
        ("config.json", {"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}, (0.1, 0.2)),
        ("config.json", {"mean": [0.1] * 3, "std": [0.2] * 3}, (0.1, 0.2)),
        ("preprocessor_config.json", {"image_mean": [0.3] * 3, "image_std": [0.4] * 3}, (0.3, 0.4)),
        ("preprocessor_config.json", {"do_normalize": False}, (0.0, 1.0)),
        ("labels.json", {"mean": [0.6] * 3, "std": [0.7] * 3}, (0.6, 0.7)),
        ("config.json", {"model_type": "resnet"}, None),
        ("config.json", {"mean": "a", "std": [0]}, None),
    ],
)
def test_what_the_publisher_ships_comes_first(tmp_path, state, file, record, expected):
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(record))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        found = normalisation(source, identity("resnet_18", 5))
        assert (found.mean[0], found.std[0]) == (expected or (IMAGENET[0], 0.229))


def test_what_a_script_kept_in_the_file(tmp_path, state):
    saved = {"state_dict": state, "args": Namespace(mean=(0.1, 0.2, 0.3), std=[1.0, 1.0, 1.0])}
    torch.save(saved, tmp_path / "a.pth")
    assert normalisation(tmp_path / "a.pth", identity("resnet_18", 5)).mean == (0.1, 0.2, 0.3)
    grey = normalisation(tmp_path / "a.pth", identity("resnet_18", 5, channels=1))
    assert grey.mean == (0.5,)


# ---- shelves -----------------------------------------------------------------------------


def test_a_shelf_takes_what_scripts_write_and_tells_what_it_leaves_out(tmp_path, state):
    for name in ("known.pth", "last.ckpt", "model_best.pth.tar"):
        torch.save({"state_dict": state}, tmp_path / name)
    (tmp_path / "hf").mkdir()
    sharded(tmp_path / "hf", state)
    (tmp_path / "notes.txt").write_text("read me")
    (tmp_path / "bad.pth").write_bytes(b"\x80\x02}q\x00")
    torch.save({"a": torch.zeros(2).to(torch.complex64)}, tmp_path / "odd.pth")
    (tmp_path / "empty").mkdir()
    found, left_out = shelf(tmp_path, image_size=(64, 64), classes=3)
    files = {Path(one.pretrained or "").name for one in found}
    assert files == {"known.pth", "last.ckpt", "model_best.pth.tar", "hf"}
    assert len(left_out) == 4
    for name in ("notes.txt", "bad.pth", "odd.pth", "empty"):
        assert any(name in sentence for sentence in left_out), name
    alone, left_out = shelf(tmp_path / "known.pth", image_size=(64, 64), classes=3)
    assert alone and not left_out
