"""One set of weights at many patch sizes: what the method draws, keeps, refuses and gives back."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import golden, toy
from test_fit import photos, quick  # noqa: F401
from test_methods import answers, tiny
from torch import nn

import vitrail
from vitrail import checkpoint
from vitrail.config import override, parse, to_json
from vitrail.engines.onnx import export_onnx
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.pi_resize import pi_resize
from vitrail.layers.position import triangle_grid
from vitrail.methods import PSS, Flexivit, Freeze, PatchDropout
from vitrail.methods.flexible_stem import FlexibleStem
from vitrail.methods.flexivit import choose, removed, sizes, stems
from vitrail.models import families, small_configs
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run import dial as dials
from vitrail.run.folder import RunFolder
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

SEAM = r"first map is cut by one convolution, such as vit, .*; this one has the seams "
WHOLE = {  # models whose patches do not overlap, with fields that make them small
    "vit_ti16": {"dim": 32, "depth": 2, "heads": 2, "hidden": 64, "patch": 8},
    "deit_tiny": {"dim": 32, "depth": 2, "heads": 2, "hidden": 64, "patch": 8},
    "cait_xxs24_224": {"dim": 32, "depth": 1, "heads": 2, "hidden": 64, "patch": 8, "reading": 1},
    "cct_vit_lite_2_4_32": {},
    "swin_tiny": {"dim": 32, "depths": (1, 1), "heads": (1, 2), "patch": 4},
    "pvt_tiny": {"patch": 2},
    "hornet_tiny_7x7": {"dim": 16, "depths": (1, 1, 1, 1), "patch": 2},
    "qna_vit_tiny": {"patch": 2},
}


def at(number, seed=0):
    return Step(number, 100, 0.0, seed)


def small(name):
    torch.manual_seed(0)
    model = vitrail.create(name, image=(32, 32), classes=5, drop_path=0.0, **WHOLE[name])
    for parameter in model.head.parameters():
        nn.init.normal_(parameter)
    return model


def small_flexivit():
    torch.manual_seed(0)
    return vitrail.create(
        "flexivit_s", image=(32, 32), dim=32, depth=1, heads=2, hidden=64, patch=8, classes=5
    )


def enlarged(image, p):
    """An image of twice the pixels whose patches of 2 p are the resized ones of p."""
    b, c, side = image.shape[:3]
    h = side // p
    cut = image.view(b, c, h, p, h, p).transpose(3, 4).reshape(-1, 1, p, p)
    large = F.interpolate(cut, (2 * p, 2 * p), mode="bilinear")
    large = large.view(b, c, h, h, 2 * p, 2 * p).transpose(3, 4)
    return large.reshape(b, c, 2 * side, 2 * side)


# ---- the function ----------------------------------------------------------------------


# Of each kind of stem one is enough for every day.
DAILY = {
    "vit", "deit", "cait", "cct", "xcit", "vit_c", "flexivit", "swin", "pvt", "hornet", "mvit",
    "resnet", "levit", "mlp_mixer", "attention_cnn",
}  # fmt: skip


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in DAILY else pytest.mark.slow) for f in families()],
)
def test_it_fits_or_says_what_the_model_has(family):
    model = tiny(family)
    names, before = list(model.state_dict()), answers(model)
    try:
        Flexivit().check(model)
    except ConfigError as error:
        assert "has the seams" in str(error) or "finds no other patch" in str(error)
        assert list(model.state_dict()) == names  # a check changes nothing
        return
    changed = Flexivit().apply(model)
    (stem,) = stems(changed)
    assert torch.equal(answers(changed), before)  # its own size outside of training
    for patch in stem.patches:
        changed.zero_grad()
        changed.train()
        stem.draw(patch)
        outputs = changed(torch.randn(2, 3, 32, 32))
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        first.square().sum().backward()
        assert first.shape == (2, 5)
        kernel = next(p for p in stem.parameters() if p.ndim == 4)
        assert kernel.grad is not None and kernel.grad.isfinite().all()
    if not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in changed.modules()):
        assert torch.equal(answers(changed), before)  # nothing drawn is left
    removed(changed)
    if family != "flexivit":  # whose own stem it is
        assert list(changed.state_dict()) == names and not stems(changed)


@pytest.mark.parametrize("name", list(WHOLE))
def test_larger_patches_of_resized_pixels_are_the_same_to_it(name):
    """PI-resize is exact where patches grow, so all that follows sees what it saw before."""
    model = small(name).double().eval()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = model(image)
    model = Flexivit().apply(model)
    (stem,) = stems(model)
    choose(model, 2 * stem.own)
    assert torch.allclose(model(enlarged(image, stem.own)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "patch"), [("flexivit_s_seq5", 48), ("flexivit_s_seq10", 24)])
def test_a_vit_that_is_made_flexible_computes_what_the_authors_compute(name, patch):
    expected = golden.read(golden.FOLDER / f"{name}.json")
    state = golden.state(expected)
    model = vitrail.load("vit_s32", state, source=expected["source"], dtype=torch.float64)
    model = choose(Flexivit((16, 32)).apply(model), patch).eval()
    with torch.no_grad():
        logits = model(golden.image(expected["input_shape"]))
    assert golden.deviation(logits, expected["outputs"]["logits"]) <= 1e-6


def test_overlapping_stems_scale_kernel_stride_and_padding():
    model = Flexivit((4, 8)).apply(tiny("xcit")).double().eval()
    (stem,) = stems(model)
    assert isinstance(stem, FlexibleStem)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    flat = torch.ones(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        model(flat[..., :32, :32])
        choose(model, 2 * stem.own)(flat)
    # Away from the border an even image has even maps, the same at both sizes.
    assert seen[0].shape == seen[1].shape
    assert torch.allclose(seen[0][:, 3:-3, 3:-3], seen[1][:, 3:-3, 3:-3], atol=1e-10)
    with pytest.raises(ConfigError, match=r"patches has 2: .* 3x3 of stride 2, scales to whole"):
        Flexivit((2, 4)).check(tiny("xcit"))


def test_maps_have_as_many_places_as_patches():
    model = Flexivit((8, 16, 32)).apply(small("vit_ti16"))
    for patch in (8, 16, 32):
        (found,) = choose(model, patch).features(torch.zeros(1, 3, 64, 32))
        assert found.shape[1:3] == (64 // patch, 32 // patch)
    with pytest.raises(ValueError, match="image is 48x48; patches of 32 pixels need multiples"):
        model(torch.zeros(1, 3, 48, 48))


# ---- what is drawn ---------------------------------------------------------------------


def test_a_size_is_a_function_of_seed_and_step():
    model, again = (Flexivit().apply(small("vit_ti16")).train() for _ in range(2))
    method, (stem,), (other,) = Flexivit(), stems(model), stems(again)
    assert stem.patches == (4, 8, 16)
    drawn = []
    for number in range(300):
        method.before_step(model, at(number))
        drawn.append(stem.patch)
    assert all(80 < count < 120 for count in Counter(drawn).values())
    for number in (299, 7, 0):
        method.before_step(again, at(number))
        assert other.patch == drawn[number]
    seeds = [method.before_step(again, at(0, seed)) or other.patch for seed in range(20)]
    assert len({*seeds}) == 3


def test_evaluation_never_sees_what_was_drawn():
    model = Flexivit((4, 8)).apply(small("vit_ti16")).train()
    (stem,) = stems(model)
    stem.draw(4)
    assert stem.patch == 4 and model.eval() is model and stem.patch == 8
    choose(model, 4)
    stem.draw(8)
    assert stem.patch == 8 and model.train() is model and stem.patch == 4


def test_a_frozen_stem_is_drawn_for_as_well():
    model = Freeze(blocks=1).apply(Flexivit((4, 8)).apply(small("vit_ti16")))
    learner = Learner(model, CrossEntropyLoss()).train()
    numbers = set()
    for number in range(10):
        Flexivit((4, 8)).before_step(learner.model, at(number))
        numbers.add(stems(model)[0].patch)
    assert numbers == {4, 8}


def flexible_training(folder, **place):
    torch.manual_seed(0)
    config = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "patch": 4, "channels": 1}
    model = vitrail.create("vit_ti16", image=(12, 12), classes=4, drop_path=0.1, **config)
    seen = []

    class Watched(Flexivit):
        def before_step(self, model, step):
            super().before_step(model, step)
            seen.append(stems(model)[0].patch)

    method = Watched()
    model = method.apply(model)
    steps = Steps(16, 32, accumulate=2, ema=0.9, save_s=1e9)
    plan = Plan(AdamW(lr=1e-3), Schedule(2), steps, methods=(method,))
    outcome = train(
        Learner(model, CrossEntropyLoss()),
        toy.batches(16, augment=toy.AUGMENT),
        plan,
        Place(folder, device="cpu", **place),
    )
    return outcome, seen


def test_a_training_that_is_stopped_goes_on_bit_by_bit(tmp_path):
    whole, seen = flexible_training(tmp_path / "whole")
    _, before = flexible_training(tmp_path / "parts", until=7)
    parts, after = flexible_training(tmp_path / "parts", resume=True)
    assert before + after == seen and len({*seen}) > 1
    for ours, theirs in ((whole.model, parts.model), (whole.ema_model, parts.ema_model)):
        one, other = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


# ---- with others -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "dropping", [PatchDropout(0.5), PSS(schedule="fixed", start=0.4)], ids=repr
)
@pytest.mark.parametrize("last", [True, False])
def test_it_goes_with_what_leaves_patches_out_in_either_order(dropping, last):
    methods = [Flexivit((4, 8)), dropping]
    model = small("vit_ti16")
    before = answers(model)
    for method in methods if last else reversed(methods):
        method.check(model)
        model = method.apply(model)
    assert torch.equal(answers(model), before)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    model.train()
    for patch in (4, 8):
        dropping.before_step(model, at(0))
        stems(model)[0].draw(patch)
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    share = 0.5 if isinstance(dropping, PatchDropout) else 0.6
    assert seen == [1 + int(share * 64), 1 + int(share * 16)]


def test_a_flexible_family_projects_some_patches_as_it_does_all():
    model = choose(small_flexivit(), 4).double()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    places = torch.tensor([[0, 9, 63], [5, 6, 7]])
    whole, some = model.embed(image), model.embed.some(image, places)
    assert torch.equal(some[:, :1], whole[:, :1])
    expected = whole[:, 1:].gather(1, places[..., None].expand(-1, -1, whole.shape[-1]))
    assert torch.allclose(some[:, 1:], expected, rtol=0, atol=1e-12)


# ---- begun with a teacher --------------------------------------------------------------


def saved(model, folder):
    told = {"config": vitrail.models.config_json(model.config)}
    checkpoint.save(folder / "teacher.safetensors", model.state_dict(), metadata=told)
    return str(folder / "teacher.safetensors")


def test_a_student_of_larger_patches_begins_as_its_teacher(tmp_path):
    """On images of twice the pixels, each of whose patches is a resized one."""
    teacher = small("deit_tiny").eval()
    path = saved(teacher, tmp_path)
    teacher = teacher.double()
    config = vitrail.models.resolve(teacher.config, patch=16, image=(64, 64))
    student = start(config, path).double().eval()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = teacher.embedding(image)
    assert torch.allclose(student.embedding(enlarged(image, 8)), expected, atol=1e-4)


def test_a_flexible_student_takes_kernel_and_positions_of_a_fixed_teacher(tmp_path):
    teacher = small("deit_tiny")
    path = saved(teacher, tmp_path)
    config = vitrail.models.resolve(
        "flexivit_s", image=(32, 32), dim=32, depth=2, heads=2, hidden=64, patch=8, classes=3
    )
    student = start(config, path)
    kernel, table = teacher.embed.proj.weight, teacher.embed.position
    assert torch.allclose(student.embed.proj.weight, pi_resize(kernel, (32, 32)), atol=1e-6)
    assert torch.allclose(student.embed.position, triangle_grid(table, (4, 4), (7, 7)), atol=1e-6)
    assert torch.equal(student.blocks[1].ffn.fc1.weight, teacher.blocks[1].ffn.fc1.weight)


def test_sizes_are_set_and_read_as_json():
    recipe = override(Recipe({}, Data("x"), Steps(1, 1)), ["methods=[flexivit]"])
    assert recipe.methods == (Flexivit(),)
    recipe = override(recipe, ["methods.0.patches=4,8"])
    told = json.loads(json.dumps(to_json(recipe)))
    assert told["methods"] == [{"kind": "flexivit", "patches": [4, 8], "test_patch": None}]
    assert parse(Recipe, told) == recipe


def test_a_run_reloads_predicts_and_exports_at_any_size(photos, quick, tmp_path):  # noqa: F811
    import onnxruntime

    from vitrail.jobs.train import train_recipe

    settings = [
        "model=vit_ti16", f"data={photos}", "model.image=16,16", "model.dim=32", "model.patch=4",
        "model.depth=2", "model.heads=2", "model.hidden=64", "steps.total=6", "steps.batch=16",
        "methods=flexivit", "methods.0.patches=2,4,8",
    ]  # fmt: skip
    out = train_recipe(settings, out=tmp_path / "run", threads=1, console=quick)
    model, recipe, labels = RunFolder.open(out).load_model()
    dial = dials.read(RunFolder.open(out))
    assert [point.name for point in dial.points] == ["patch2", "patch4", "patch8"]
    stands = dial[dial.chosen].setting.patch
    assert recipe["methods"] == [{"kind": "flexivit", "patches": [2, 4, 8], "test_patch": stands}]
    assert stems(model)[0].patches == (2, 4, 8) and not model.training
    assert stems(model)[0].patch == stands
    assert "One set of weights, many costs" in (out / "report.html").read_text()
    assert labels == dial[dial.chosen].labels(labels)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    logits = session.run(["logits"], {"images": images})[0]
    with torch.no_grad():
        ours = model(labels.normalised(images)).numpy()
        assert np.abs(ours - logits).max() < 1e-4
        other = choose(model, 2 if stands == 8 else 8)(labels.normalised(images)).numpy()
    assert np.abs(ours - other).max() > 1e-4
    export_onnx(model, labels, tmp_path / "large.onnx", images=images)  # compares them itself
    session = onnxruntime.InferenceSession(tmp_path / "large.onnx")
    assert np.abs(session.run(["logits"], {"images": images})[0] - other).max() < 1e-4


def test_a_stem_whose_norms_are_folded_takes_any_size():
    model = Flexivit().apply(tiny("xcit")).eval()
    choose(model, 8)
    expected = answers(model)
    found = answers(deploy(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deploy(model).embed.modules())
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((8, 7), "patches has 7: it does not divide the image of 32x32: give sizes that do"),
        ((64,), "patches has 64: it does not divide the image of 32x32"),
    ],
)
def test_sizes_that_do_not_divide_the_image_are_refused(wanted, said):
    with pytest.raises(ConfigError, match=said):
        Flexivit(wanted).check(small("vit_ti16"))


@pytest.mark.parametrize("patches", [(0, 4), (4, 4), (-2,)])
def test_sizes_are_whole_and_different(patches):
    with pytest.raises(
        ConfigError, match=r"patches is .*: give different sizes of 1 pixel or more"
    ):
        Flexivit(patches)


@pytest.mark.parametrize("family", ["levit", "maxvit", "t2t_vit"])
def test_a_model_without_such_a_stem_is_told_its_seams(family):
    with pytest.raises(ConfigError, match=SEAM):
        Flexivit().check(tiny(family))


def test_windows_that_lose_rows_have_one_patch_size():
    model = vitrail.create("swin_tiny", dim=32, depths=(1, 1), heads=(1, 2), image=(56, 56))
    model = PatchDropout().apply(model)
    with pytest.raises(ConfigError, match="comes after patch_dropout, whose windows"):
        Flexivit().check(model)


def test_a_model_of_clips_is_refused():
    with pytest.raises(ConfigError, match=SEAM):
        sizes(vitrail.catalog()["mvit_b_16x4"].config)


def test_a_model_that_reads_a_fixed_number_of_patches_is_refused():
    configs = small_configs("mlp_mixer", image=(32, 32), channels=3, classes=5)
    mixer = vitrail.create(next(one for one in configs if one.patch == 4))
    with pytest.raises(ConfigError, match="finds no other patch than 4, from 2 to 12 pixels"):
        Flexivit().check(mixer)
    with pytest.raises(ConfigError, match=r"patches has 8: .*its mixing is of 8x8 tokens, not 4x4"):
        Flexivit((8,)).check(mixer)


def test_a_model_of_one_size_has_none_to_choose():
    with pytest.raises(ConfigError, match="has one patch size only: train it with methods=flexiv"):
        choose(small("vit_ti16"), 4)
