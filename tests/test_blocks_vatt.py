"""VATT's towers, spaces and losses against the authors' figures, and what its parts promise."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace

import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.checkpoint.names import rename
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.nce import nce, weighed
from vitrail.models import vatt, vatt_unified
from vitrail.models.names.vatt import FAC as HEAD_NAMES
from vitrail.models.parts.vatt_encoder import Sizes, buckets
from vitrail.models.parts.vatt_heads import FAC, Joint
from vitrail.models.parts.vatt_inputs import Inputs, Spaces
from vitrail.models.parts.vatt_tokens import Axes, DropToken, Patches, resampled
from vitrail.models.trunk.backbone import input_kind, input_shape

MINI = Sizes(128, 2, 256, 2)
INPUTS = Inputs(frames=8, image=(64, 48), samples=1280, words=6, vocabulary=50, vectors=12)
VIDEO = vatt.Config(towers=("video",), inputs=INPUTS, video=MINI)
UNIFIED = vatt_unified.Config(inputs=INPUTS, encoder=MINI, width=32)
TINY = Sizes(32, 1, 48, 1)
SEPARATE = vatt.Config(inputs=INPUTS, video=TINY, audio=TINY, text=TINY, spaces=Spaces(16, 8))
SOURCE = "google-research/vatt"
IDS = torch.tensor([[3, 7, 1, 0, 0, 0], [9, 4, 4, 8, 2, 0]])


def expected(name):
    return golden.read(golden.FOLDER / "blocks" / f"{name}.json")


def agree(found, told):
    for what, value in found.items():
        assert golden.deviation(value, told["outputs"][what]) <= 1e-6, what


def test_the_tower_of_clips_is_the_authors():
    told = expected("vatt_video_d2")
    model = vitrail.load(VIDEO, golden.state(told), source=SOURCE, dtype=torch.float64)
    assert sum(p.numel() for p in model.parameters()) == told["params"]
    clips = golden.image(told["input_shape"])
    with torch.no_grad():
        agree(model.read("video", clips)._asdict(), told)
        assert model.features(clips)[0].shape == (2, 2, 4, 3, 128)


def test_one_encoder_of_all_three_is_the_authors():
    told = expected("vatt_unified_d2")
    # The spaces, which the authors' network has apart, are not in their figures.
    model = vitrail.create(UNIFIED)
    spaces = {n: v for n, v in model.state_dict().items() if n.startswith("common.")}
    state = {**golden.state(told), **spaces}
    model = vitrail.load(UNIFIED, state, source=SOURCE, dtype=torch.float64)
    own = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("common."))
    assert own == told["params"]
    with torch.no_grad():
        video = model.read("video", golden.image(told["input_shape"]))
        audio = model.read("audio", golden.image([2, 1, 1280], 1))
        text = model.read("text", IDS)
    found = {"video": video.pooled, "video_tokens": video.tokens, "audio": audio.pooled}
    agree({**found, "text": text.pooled, "text_tokens": text.tokens}, told)


def test_spaces_and_losses_are_the_authors():
    told = expected("vatt_fac_loss")
    head = FAC({"video": 24, "audio": 20, "text": 16}).double().eval()
    head.load_state_dict(rename(golden.state(told), HEAD_NAMES), strict=False)
    assert sum(p.numel() for p in head.parameters()) == told["params"]
    clips, sounds = golden.image([4, 24]), golden.image([4, 20], 1)
    with torch.no_grad():
        seen = head(clips, sounds, golden.image([20, 16], 2))
        words = seen.text.view(4, 5, -1)
        heard = nce(seen.clip_sound, seen.sound[:, None])
        read = nce(seen.clip_text, words)
        masked = nce(seen.clip_text, words, torch.tensor([1.0, 1, 0, 1]))
        total = weighed({"audio": heard, "text": read}, {})
    found = {
        "video_toaud": seen.clip_sound, "video_totxt": seen.clip_text, "audio_tovid": seen.sound,
        "text_tovid": seen.text, "loss_va": heard, "loss_vt": read, "loss_vt_masked": masked,
        "loss": total[None],
    }  # fmt: skip
    assert set(found) == set(told["outputs"])
    agree(found, told)


def slow_nce(clips, partners, there, temperature, symmetric):
    """The loss of ten plain lines, clip by clip."""

    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item() / temperature

    n, found = len(clips), []
    for i in range(n):
        if not there[i]:
            found.append(0.0)
            continue
        own = sum(math.exp(cosine(clips[i], t)) for t in partners[i])
        rows = sum(math.exp(cosine(clips[i], t)) for j in range(n) if there[j] for t in partners[j])
        columns = sum(math.exp(cosine(clips[j], t)) for j in range(n) for t in partners[i])
        pair = (rows / own) * (columns / own) if symmetric else (rows + columns) / own
        found.append(math.log(pair) * n / sum(there))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("there", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
def test_losses_are_those_of_plain_sums(symmetric, there):
    clips, partners = golden.image([5, 6], 3), golden.image([5, 3, 6], 4)
    found = nce(clips, partners, torch.tensor(there).double(), temperature=0.2, symmetric=symmetric)
    expected = slow_nce(clips, partners, there, 0.2, symmetric)
    torch.testing.assert_close(found, expected)


def test_equal_embeddings_cannot_be_told_apart():
    """N clips of L candidates each: the sum has 2 N L equal terms, the clip's own L."""
    same = torch.ones(4, 3).double()
    found = nce(same, same[:, None].expand(4, 2, 3))
    torch.testing.assert_close(found, torch.full((4,), math.log(8)).double())
    symmetric = nce(same, same[:, None], symmetric=True)
    torch.testing.assert_close(symmetric, torch.full((4,), 2 * math.log(4)).double())


def test_nobody_there_costs_nothing():
    clips = golden.image([3, 4]).requires_grad_()
    loss = nce(clips, golden.image([3, 2, 4], 1), torch.zeros(3)).mean()
    loss.backward()
    assert loss.item() == 0 and clips.grad is not None and not clips.grad.any()


def test_kinds_of_losses_are_averaged():
    losses = {"audio": torch.tensor([1.0, 3.0]), "text": torch.tensor([5.0])}
    assert weighed(losses, {}).item() == 3.5
    assert weighed(losses, {"audio": 3.0}).item() == pytest.approx((3 * 2 + 5) / 4)


def of_a_share(rank, world, folder, told):
    """One of `world` processes: the losses of all clips from its own, and what its own learn."""
    torch.set_num_threads(1)
    import torch.distributed as dist

    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    mine = slice(2 * rank, 2 * rank + 2)
    clips, partners, there = (x[mine] for x in triples())
    clips = clips.clone().requires_grad_()
    losses = nce(clips, partners, there)
    losses.mean().backward()
    told.put((rank, losses.detach().numpy(), clips.grad.numpy() / world))
    dist.barrier()
    dist.destroy_process_group()


def triples():
    there = torch.tensor([1.0, 0, 1, 1]).double()
    return golden.image([4, 6], 5), golden.image([4, 2, 6], 6), there


def test_several_processes_compare_all_clips(tmp_path):
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    workers = [context.Process(target=of_a_share, args=(r, 2, tmp_path, told)) for r in range(2)]
    for worker in workers:
        worker.start()
    shares = sorted((told.get(timeout=120) for _ in workers), key=lambda one: one[0])
    for worker in workers:
        worker.join()
    clips, partners, there = triples()
    clips.requires_grad_()
    losses = nce(clips, partners, there)
    losses.mean().backward()
    for _, found, _ in shares:
        torch.testing.assert_close(torch.from_numpy(found), losses.detach())
    gradient = torch.cat([torch.from_numpy(own) for _, _, own in shares])
    torch.testing.assert_close(gradient, clips.grad)


def test_dropped_patches_are_the_same_of_a_batch_and_never_projected():
    patches = Patches(3, (2, 4, 4), 8).double()
    clips = golden.image([2, 3, 4, 8, 12])
    every = patches(clips)
    places = torch.tensor([5, 0, 11, 7])
    torch.testing.assert_close(patches(clips, places), every[:, places])
    kernel = patches.proj.weight.view(8, 3, 2, 4, 4)
    whole = torch.nn.functional.conv3d(clips, kernel, patches.proj.bias, (2, 4, 4))
    torch.testing.assert_close(every, whole.flatten(2).mT)
    drop = DropToken(0.5, 12)
    kept = drop(12, torch.device("cpu"))
    assert len(kept.unique()) == 6 and drop.eval()(12, torch.device("cpu")) is None
    assert DropToken(0.5, 12)(6, torch.device("cpu")) is None
    with pytest.raises(ValueError, match=r"keep is 0\.0: give a share"):
        DropToken(0.0, 12)


def test_dropped_tokens_change_training_only():
    torch.manual_seed(0)
    model = vitrail.create(VIDEO, dropout=0.0).train()
    clips = torch.randn(2, 3, 8, 64, 48)
    tokens = model.read("video", clips).tokens
    assert tokens.shape == (2, 12, 128)
    # Of a batch of one clip twice both are the same: one choice for all.
    twice = model.read("video", clips[:1].expand(2, -1, -1, -1, -1)).pooled
    torch.testing.assert_close(twice[0], twice[1])
    whole = vitrail.create(replace(VIDEO, inputs=replace(INPUTS, keep=1.0)), dropout=0.0)
    whole.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert model.eval().read("video", clips).pooled.equal(whole.read("video", clips).pooled)


def test_tables_of_positions_are_resampled_by_a_spline():
    """Straight lines stay straight, and the known places keep their rows."""
    line = torch.arange(6.0).double()[:, None] * torch.tensor([1.0, -2.0]).double()
    torch.testing.assert_close(resampled(line, 12)[::2], line)
    torch.testing.assert_close(resampled(line, 12)[1], line[1] / 2)
    rows = golden.image([5, 3])
    torch.testing.assert_close(resampled(rows, 10)[::2], rows)
    axes = Axes((2, 3), 4).double()
    assert axes((2, 3)).shape == (6, 4) and axes((4, 5)).shape == (20, 4)


def test_distances_of_words_have_t5s_buckets():
    found = buckets(torch.tensor([0, -1, -7, -8, -63, -500, 1, 7, 500])).tolist()
    assert found == [0, 1, 7, 8, 15, 15, 17, 23, 31]


@pytest.mark.parametrize("config", [SEPARATE, replace(UNIFIED, encoder=TINY, spaces=Spaces(16, 8))])
def test_any_input_but_one_may_be_missing(config):
    torch.manual_seed(0)
    model = vitrail.create(config).train()
    clips, sounds = torch.randn(3, 3, 8, 64, 48), torch.randn(3, 1, 1280)
    words = torch.randint(1, 50, (6, 6))
    seen = model(clips, sounds, words)
    assert seen.clip_sound.shape == seen.sound.shape == (3, 16)
    assert seen.clip_text.shape == (3, 8) and seen.text.shape == (6, 8)
    losses = {
        "audio": nce(seen.clip_sound, seen.sound[:, None]),
        "text": nce(seen.clip_text, seen.text.view(3, 2, -1)),
    }
    weighed(losses, {}).backward()
    for name, p in model.named_parameters():
        learns = "vectors" not in name
        assert (p.grad is not None and bool(p.grad.abs().sum())) == learns, name
    alone = model(audio=sounds)
    assert alone.sound is not None and alone.clip_sound is None and alone.text is None


def test_padding_of_words_changes_nothing():
    torch.manual_seed(0)
    for config in (SEPARATE, replace(UNIFIED, encoder=TINY)):
        model = vitrail.create(config).double().eval()
        with torch.no_grad():
            model_vectors = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
            before = model.read("text", IDS).pooled
            for table in model_vectors:
                if table.weight.shape == (50, 12):
                    table.weight[0] += 1
            after = model.read("text", IDS).pooled
        torch.testing.assert_close(before, after)


def test_one_space_for_all():
    head = Joint({"video": 8, "audio": 6}, 4)
    seen = head(torch.randn(3, 8), torch.randn(3, 6))
    assert seen.clip_sound is seen.clip_text and seen.sound.shape == (3, 4)
    with pytest.raises(ValueError, match="no space for text"):
        head(text=torch.randn(3, 5))


def test_networks_of_triples_are_known_by_their_configs():
    for config, name in ((SEPARATE, "vatt"), (UNIFIED, "vatt_unified")):
        assert models.config_from_json(models.config_json(config)) == config
        assert name not in models.families() and models.config_name(config) == name
        assert (input_kind(config), input_shape(config)) == ("triples", (3, 8, 64, 48))
    model = vitrail.create(SEPARATE)
    again = vitrail.load(SEPARATE, model.state_dict())
    sounds = torch.randn(2, 1, 1280)
    with torch.no_grad():
        assert model.eval()(audio=sounds).sound.equal(again(audio=sounds).sound)
    with pytest.raises(CheckpointError, match="does not fit vatt"):
        vitrail.load(replace(SEPARATE, text=replace(TINY, depth=2)), model.state_dict())


@pytest.mark.parametrize(
    ("config", "params_m"),
    [(vatt.MBS, 264), (vatt.LBS, 415)],
)
def test_published_sizes(config, params_m):
    """Parameters that learn, of the towers alone, within 3 % of the paper's."""
    with torch.device("meta"):
        model = models.module_of(config).MODEL(config)
    learn = {n: p for n, p in model.named_parameters() if p.requires_grad}
    count = sum(p.numel() for n, p in learn.items() if not n.startswith("common."))
    assert count / 1e6 == pytest.approx(params_m, rel=0.03)


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="towers are video, smell: expected some of"):
        vitrail.create(SEPARATE, towers=("video", "smell"))
    model = vitrail.create(VIDEO)
    with pytest.raises(ValueError, match="no tower for audio: it has video"):
        model.read("audio", torch.zeros(1, 1, 1280))
    with pytest.raises(ValueError, match="no common space"):
        model(torch.zeros(1, 3, 8, 64, 48))
    with pytest.raises(ValueError, match=r"this tower takes \(B, 3, T, H, W\)"):
        model.read("video", torch.zeros(1, 8, 64, 48))
    with pytest.raises(ValueError, match="patches are 4x16x16: give at least one"):
        model.read("video", torch.zeros(1, 3, 3, 64, 48))
