"""A class for every clip: the gate with an answer key, sampling, a run from files to answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
from support import clips
from support.visible import of_pictures, prose, visible

import vitrail
from vitrail import checkpoint
from vitrail.data.augment import Augment
from vitrail.data.clip_gate import copies
from vitrail.data.clip_pixels import clip_pixels
from vitrail.data.clips import last_start, rows_of, view_start
from vitrail.data.gate import inspect
from vitrail.data.opening import task_of_data
from vitrail.data.source import Sampling
from vitrail.data.split import divide, unseal
from vitrail.data.videos import frames_of, times_of
from vitrail.errors import CheckpointError, ConfigError, DataError
from vitrail.jobs.arguments import ask
from vitrail.jobs.senses import seen_as
from vitrail.jobs.train import train_recipe
from vitrail.layers.normal import Normal
from vitrail.models import config_json, mvit, per_frame, resnet
from vitrail.models.trunk.backbone import input_kind, input_shape
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, amend, read
from vitrail.run.workshop import Workshop
from vitrail.runs import Run
from vitrail.search.shelf import shelf
from vitrail.tasks.task import Order
from vitrail.tasks.video import Video
from vitrail.training.steps import Steps

HOST = resnet.Config(
    depths=(1, 1), dims=(8, 16), expansion=1, strides=(), stem_kernel=3, stem_stride=1,
    stem_dims=(), image=(24, 24), classes=2, drop_path=0.0,
)  # fmt: skip
TASK = Video(frames=4, stride=3, views=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clips.folder(tmp_path_factory.mktemp("clips") / "moves", 8)


@pytest.fixture(scope="module")
def found(data):
    return inspect(TASK.source(data), progress=False)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    model = config_json(per_frame.Config(HOST, frames=4, pool="attention"))
    wanted = ["task=video", f"model={json.dumps(model)}", f"data={data}", "task.stride=3"]
    return train_recipe(
        [*wanted, "augment.flip=0", "steps.total=12", "steps.batch=8"],
        out=tmp_path_factory.mktemp("run") / "run", device="cpu",
    )  # fmt: skip


# ---- the gate --------------------------------------------------------------------------


def test_a_folder_of_broken_clips(tmp_path):
    """Each fault is planted once, and the gate says what the answer key says, and no more."""
    root = clips.broken(clips.folder(tmp_path / "clips", 2))
    seen = inspect(TASK.source(root), progress=False)
    assert {one.key: one.kind for one in seen.broken} == clips.KEY
    told = {one.kind: one.keys for one in seen.findings}
    assert {kind: told[kind] for kind in clips.TRAITS} == clips.TRAITS
    [near] = [one for one in seen.findings if "duplicates" in one.kind]
    assert near.groups == (clips.COPIES,)
    assert {*told} - {*clips.TRAITS} <= {*clips.KEY.values(), near.kind, "small class"}
    assert task_of_data(root) == "video"


def test_clips_of_which_none_can_be_read(tmp_path):
    for label in clips.CLASSES:
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"none of the 2 files of .* can be read as a video .first"):
        inspect(TASK.source(tmp_path), progress=False)


def test_a_copy_is_alike_in_all_its_frames():
    """One frame that differs parts two clips, a little noise everywhere does not."""
    random = np.random.default_rng(0)
    looks = random.uniform(0, 255, (4, 5, 16, 16)).astype(np.float32)
    looks[1] = looks[0] + random.normal(0, 1.5, looks[0].shape)
    looks[2] = looks[0]
    looks[2, 3, 4:8, 4:8] += 90
    digests = np.arange(8, dtype=np.uint64).reshape(4, 2)
    groups = copies(looks, digests)
    assert groups[0] == groups[1] and len({*groups.tolist()}) == 3


def test_frames_are_upright_and_even_in_time(tmp_path):
    shown = clips.frames(1, "right")
    plain = frames_of(clips.write(tmp_path / "a.mp4", shown), (32, 32))
    # The codec keeps a colour for four pixels.
    assert plain.shape == (20, 32, 32, 3) and abs(plain.mean(3) - shown.mean(3)).mean() < 8
    turned = clips.write(tmp_path / "b.mp4", shown)
    clips.turn(turned)
    upright = frames_of(turned, (32, 32))
    assert np.array_equal(upright, np.rot90(plain, -1, (1, 2)))
    # Ten frames, a pause of as many again, the rest: while it lasts the tenth stays.
    times = [5 * at + (50 if at >= 10 else 0) for at in range(20)]
    uneven = frames_of(clips.write(tmp_path / "c.mp4", shown, times=times), (32, 32))
    still = [bool((a == b).all()) for a, b in pairwise(uneven)]
    assert len(uneven) == 20 and sum(still) >= 5
    assert not times_of([0.0, 0.1, 0.2, 0.3]).uneven and times_of([0.0, 0.1, 0.2, 0.9]).uneven


# ---- sampling --------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "t", "stride"), [(20, 4, 3), (20, 4, 6), (5, 4, 3), (2, 8, 1)])
def test_sampling(frames, t, stride):
    """Views begin evenly from the first frame to the last possible; what is too short is held."""
    sampling = Sampling(t, stride)
    last = last_start(frames, sampling)
    rows = rows_of(frames, sampling, last)
    assert len(rows) == t and rows.max() == min(frames - 1, (t - 1) * stride + last)
    starts = [view_start(frames, sampling, view, 3) for view in range(3)]
    assert starts[0] == 0 and starts[2] == last and starts == sorted(starts)
    assert view_start(frames, sampling, 0, 1) == last // 2


def test_clips_of_the_cache_are_those_of_the_files(found, tmp_path):
    part = divide(found).train
    kept = clip_pixels(part, (24, 24), folder=tmp_path, progress=False)
    stream = clip_pixels(part, (24, 24), folder=tmp_path / "none", progress=False, limit_bytes=1)
    assert kept.images is not None and stream.images is None
    rows = [3, 0]
    assert np.array_equal(kept.take(rows), stream.take(rows))
    whole = frames_of(part.source.path(part.items[3]), (24, 24))
    assert np.array_equal(kept.taken([3], [2])[0], whole[[2, 5, 8, 11]])
    assert np.array_equal(kept.first(4).take(rows), kept.take(rows))
    again = clip_pixels(part, (24, 24), folder=tmp_path, progress=False)
    assert np.array_equal(again.take(rows), kept.take(rows))


def test_a_batch_moves_all_frames_of_a_clip_alike(found):
    """What is drawn for a clip is drawn once, and a share of a batch is that of the whole."""
    pixels = clip_pixels(divide(found).train, (24, 24), progress=False)
    plain = Normal((0.0,) * 3, (1 / 255,) * 3)
    batches = TASK.training(pixels, plain, Order(8, 5, Augment(flip=1.0, shift=0.0)))
    batch = batches.get(0, 0)
    assert batch.images.shape == (8, 3, 4, 24, 24)
    for clip, row in zip(batch.images, batch.indices.tolist(), strict=True):
        seen = clip.permute(1, 2, 3, 0).flip(2).numpy().round().astype(np.uint8)
        last = last_start(int(pixels.lengths[row]), pixels.sampling)
        assert any(np.array_equal(seen, pixels.taken([row], [s])[0]) for s in range(last + 1))
    shares = [batches.get(0, 0, rank=r, world=2).images for r in (0, 1)]
    assert torch.equal(torch.cat(shares), batch.images)
    with pytest.raises(ConfigError, match="it is of single pictures"):
        TASK.training(pixels, plain, Order(8, 5, Augment(mixup=0.2)))


# ---- models ----------------------------------------------------------------------------


def test_any_backbone_of_images_becomes_one_of_clips():
    base = Recipe({}, Data("x"), Steps(1, 1))
    made = amend(base, ["task=video", "model=resnet_18", "task.frames=6", "model.image=32,32"])
    assert made.model["family"] == "per_frame" and input_shape(made.config) == (3, 6, 32, 32)
    assert made.task == Video(frames=6) and input_kind(made.config) == "clips"
    clip = amend(base, ["task=video", "model=mvit_b_16x4"])
    assert clip.model["family"] == "mvit" and clip.task == Video(frames=16)
    with pytest.raises(ConfigError, match="this task trains on series: take model=ea_dc"):
        _ = amend(base, ["task=series", "model=resnet_18"]).config
    with pytest.raises(ConfigError, match="does not look at frames"):
        amend(base, ["task=video", "model=vitas_1g"])
    with pytest.raises(ConfigError, match="give 2 or more"):
        amend(base, ["task=video", "task.frames=1"])


def test_the_mean_knows_no_order_and_attention_does():
    clip = torch.randn(2, 3, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    for pool, same in (("mean", True), ("attention", False)):
        torch.manual_seed(0)
        model = vitrail.create(per_frame.Config(HOST, frames=4, pool=pool)).eval()
        with torch.no_grad():
            ahead, back = model.embedding(clip), model.embedding(clip.flip(2))
        assert torch.allclose(ahead, back, atol=1e-6) == same
        assert [x.shape[1] for x in model.features(clip)] == [4, 4]
    with pytest.raises(ValueError, match="clip has 3 frames"):
        model(clip[:, :, :3])


def test_weights_of_a_classifier_begin_a_network_of_clips(tmp_path):
    classifier, file = vitrail.create(replace(HOST, classes=7)), tmp_path / "c.safetensors"
    checkpoint.save(
        file, classifier.state_dict(), metadata={"config": config_json(classifier.config)}
    )
    model = start(per_frame.Config(HOST, frames=4), str(file))
    own, given = model.backbone.state_dict(), classifier.state_dict()
    assert own and all(torch.equal(own[name], given[name]) for name in own)


def test_weights_of_images_inflate_to_clips(tmp_path):
    """Kernels over time are repeated and divided: they add up to what they were."""
    small = replace(mvit.SPACE.base, dim=16, depths=(1, 1), image=(32, 32), classes=2, pool="token")
    images, file = vitrail.create(small), tmp_path / "images.safetensors"
    checkpoint.save(file, images.state_dict(), metadata={"config": config_json(small)})
    model = start(replace(small, frames=4), str(file))
    own, given = model.state_dict(), images.state_dict()
    inflated = [n for n in given if n in own and own[n].ndim == 5]
    assert "stem.proj.weight" in inflated and len(inflated) > 1
    assert all(torch.allclose(own[name].sum(2), given[name], atol=1e-6) for name in inflated)
    same = [n for n in given if n in own and own[n].shape == given[n].shape and "head" not in n]
    assert same and all(torch.equal(own[name], given[name]) for name in same)
    with pytest.raises(CheckpointError, match="does not fill"):
        start(replace(small, frames=4, dim=32), str(file))


def kept(config, file):
    """Write random weights of a network, and return the file."""
    state = vitrail.create(config).state_dict()
    checkpoint.save(file, state, metadata={"config": config_json(config)})
    return file


def test_weights_take_part_in_a_fit_of_clips(run, tmp_path):
    """Those of images look at each frame or inflate, those of clips are what they are."""
    small = replace(mvit.SPACE.base, dim=16, depths=(1, 1), image=(32, 32), classes=2, pool="token")
    shelf_of = tmp_path / "shelf"
    shelf_of.mkdir()
    kept(small, shelf_of / "mvit.safetensors")
    kept(replace(HOST, classes=7), shelf_of / "resnet.safetensors")
    kept(replace(HOST, channels=1), shelf_of / "grey.safetensors")
    kept(per_frame.Config(HOST, frames=6), shelf_of / "six.safetensors")
    asked = {"image_size": (32, 32), "classes": 3, "takes": "clips", "frames": 4}
    found, left_out = shelf(shelf_of, **asked)
    assert {one.family for one in found} == {"mvit", "per_frame"}
    assert {one.config.pool for one in found if one.family == "per_frame"} == {*per_frame.POOLS}
    assert {(one.config.frames, one.config.classes) for one in found} == {(4, 3)}
    for one in found:
        begun, given = start(one.config, one.pretrained), checkpoint.read(one.pretrained)
        own = begun.state_dict()
        same = [n for n in given if torch.equal(given[n], own.get(f"backbone.{n}", own.get(n)))]
        assert len(same) > len(given) / 2
    grey, six = sorted(left_out)
    assert "of 1 channel: clips have 3" in grey and "add --set task.frames=6" in six
    found, _ = shelf(run, **asked | {"image_size": (24, 24)})
    assert {one.config.pool for one in found} == {"attention"}
    assert (24, 24) in {one.image for one in found}
    assert {one.pretrained for one in found} == {str(run / "weights.safetensors")}


def test_a_fit_sees_clips_as_the_weights_do_that_it_starts_from(run, tmp_path):
    assert seen_as(run) == ["task=video", "task.frames=4", "task.stride=3"]
    file = kept(per_frame.Config(HOST, frames=6), tmp_path / "six.safetensors")
    assert seen_as(file) == ["task=video", "task.frames=6"]
    pictures = kept(HOST, tmp_path / "pictures.safetensors")
    assert seen_as(pictures) == seen_as(None) == seen_as(tmp_path) == ["task=video"]
    with pytest.raises(ConfigError, match="--pretrained hub is for classes of images"):
        ask("clips", {"task": "video", "pretrained": "hub"}, (), None)


# ---- a run -----------------------------------------------------------------------------


def test_a_run_says_how_well(run):
    result = Run(run).result
    assert result["test"]["n"] == 2 and 0 <= Run(run).accuracy <= 1
    names = [one["name"] for one in result["baselines"]]
    assert names[0].startswith("always") and names[1].endswith("of the middle frame")
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    assert "test clips" in page
    assert not of_pictures(visible(page)) + of_pictures(prose(card))
    assert "clips of 4 frames of 24×24" in page and "import av" in card


def test_the_file_alone_gives_the_reports_figures(run, data, found):
    """Whoever has the ONNX file and the test clips finds what the report says, by three views."""
    recipe = read(run / "recipe.json")
    part = unseal(divide(found).test)
    pixels = clip_pixels(part, recipe.data.image, progress=False)
    session = onnxruntime.InferenceSession(run / "model.onnx")
    assert session.get_inputs()[0].type == "tensor(uint8)"
    told = []
    for view in range(3):
        given = pixels.seen_from(view, 3).take(range(len(part)))
        assert given.dtype == np.uint8 and given.shape[1:] == (4, 24, 24, 3)
        told.append(session.run(["probabilities"], {"clips": given})[0])
    shares = np.mean(told, 0)
    assert (shares.argmax(1) == part.labels).mean() == Run(run).accuracy
    answers = vitrail.predict(run, [data / key for key in part.keys])
    for answer, row in zip(answers, shares, strict=True):
        assert answer.ranked[0][1] == pytest.approx(row.max(), abs=1e-5)
    again = vitrail.evaluate(run)
    assert again.figures["test"]["accuracy"] == Run(run).accuracy


def test_weights_answer_as_the_file_does(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").unlink()
    shown = clips.frames(3, "left")
    ours, theirs = (vitrail.predict(path, shown)[0] for path in (tmp_path / "run", run))
    assert dict(ours.ranked) == pytest.approx(dict(theirs.ranked), abs=1e-5)


def test_what_is_asked_wrongly_gets_its_reason(run, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    one, other = vitrail.predict(run, [tmp_path / "text.mp4", tmp_path / "none.mp4"])
    assert "cannot be read as a video" in one.error and "cannot be read" in other.error
    with pytest.raises(DataError, match="has no video files"):
        (tmp_path / "empty").mkdir()
        vitrail.predict(run, tmp_path / "empty")
    for asking in (
        lambda: vitrail.explain(run, ["x.png"]),
        lambda: vitrail.export(run, engine="onnxruntime"),
    ):
        with pytest.raises(ConfigError, match="takes clips"):
            asking()


def test_a_stopped_training_goes_on_with_the_same_bits(run, found, tmp_path):
    recipe = read(run / "recipe.json")
    straight = Workshop(divide(found), device="cpu").train(recipe, tmp_path / "straight", 6)
    Workshop(divide(found), device="cpu").train(recipe, tmp_path / "stopped", 3)
    resumed = Workshop(divide(found), device="cpu").train(recipe, tmp_path / "stopped", 6)
    ours, theirs = (one.model.state_dict() for one in (straight, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_an_mvit_of_clips_from_files_to_answers(data, tmp_path):
    small = replace(
        mvit.SPACE.base, dim=16, depths=(1, 1), frames=4, image=(32, 32), classes=2, pool="token"
    )
    model = json.dumps(config_json(small))
    run = train_recipe(
        ["task=video", f"model={model}", f"data={data}", "steps.total=6", "steps.batch=8"],
        out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    [answer] = vitrail.predict(run, clips.frames(3, "left"))
    assert sum(share for _, share in answer.ranked) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_fit_recognises_clips(data, tmp_path):
    found = vitrail.fit(data, time="90s", out=tmp_path / "run", params="1M")
    families = {one["family"] for one in found.result["candidates"]}
    assert families <= {"per_frame", "mvit"} and found.result["test"]["n"] == 2


@pytest.mark.slow
def test_a_fit_of_clips_begins_with_weights_of_images(data, tmp_path):
    pictures = kept(replace(HOST, classes=7), tmp_path / "pictures.safetensors")
    limits = {"time": "60s", "params": "100k", "out": tmp_path / "run"}
    found = vitrail.fit(data, pretrained=pictures, **limits)
    begun = [one for one in found.result["candidates"] if "pretrained" in one["name"]]
    assert begun and all(one["family"] == "per_frame" for one in begun)
