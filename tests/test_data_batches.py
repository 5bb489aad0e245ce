"""Batches: a function of (seed, epoch, number), for every augmentation, share and worker."""

import numpy as np
import pytest
import torch
from support.peers import torchvision
from support.pictures import photo, write_classes

from vitrail.data import augment as augmentation
from vitrail.data.augment import Augment, draw
from vitrail.data.batches import Batches, generator
from vitrail.data.cache import pixels, statistics
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.policies import GoogleRandAugment, TimmRandAugment
from vitrail.data.randaugment import operate
from vitrail.data.split import divide
from vitrail.errors import ConfigError

EVERYTHING = Augment(
    scale=(0.3, 1.0), randaugment=(2, 9), mixup=0.4, cutmix=1.0, erasing=0.5, flip=0.5
)
AUGMENTS = [
    None, Augment(), Augment(scale=(0.3, 1.0)), Augment(randaugment=(2, 9)), Augment(mixup=0.4),
    Augment(cutmix=1.0), Augment(erasing=0.7), EVERYTHING,
    Augment(
        scale=(0.1, 1), policy=TimmRandAugment(), mixup=0.8, cutmix=1.0, mixing="batch",
        erasing=0.7, noise=True, repeats=3,
    ),
    Augment(policy=GoogleRandAugment(2, 15), mixup=0.5, mixing="roll"),
    Augment(shift=0.2, flips="alternating", border="mirrored"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    split = divide(inspect(open_source("fashion-sample"), progress=False))
    return pixels(split.val, (28, 28), 1, folder=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_classes(root, {"a": 40, "b": 40}, lambda seed: photo(seed, 20, 24))
    split = divide(inspect(open_source(root), progress=False))
    folder = tmp_path_factory.mktemp("cache")
    return pixels(split.train, (20, 24), 3, folder=folder, progress=False)


def batches(source, **options) -> Batches:
    mean, std = statistics(source)
    return Batches(source, **({"batch": 32, "seed": 3, "mean": mean, "std": std} | options))


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("images", "targets", "indices"))


def test_shapes_and_types(sample, colour):
    hard = batches(sample).get(0, 0)
    assert hard.images.shape == (32, 1, 28, 28)
    assert (hard.images.dtype, hard.targets.dtype) == (torch.float32, torch.int64)
    soft = batches(colour, augment=Augment(mixup=0.2)).get(0, 0)
    assert soft.images.shape == (32, 3, 20, 24)
    assert soft.images.is_contiguous(memory_format=torch.channels_last)
    assert (soft.targets.shape, soft.targets.dtype) == ((32, 2), torch.float32)
    assert torch.allclose(soft.targets.sum(1), torch.ones(32))
    assert len(hard) == 32
    assert hard.to("cpu").images.device.type == "cpu"


@pytest.mark.parametrize("source", ["sample", "colour"])
@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_a_batch_is_a_function_of_seed_epoch_and_number(source, augment, request):
    source = request.getfixturevalue(source)
    first = batches(source, batch=20, augment=augment)
    alone = first.get(1, 1)
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.random.get_rng_state()
    fresh = batches(source, batch=20, augment=augment)
    list(fresh.iterate(0, stop=3))
    assert same(fresh.get(1, 1), alone)
    assert torch.equal(torch.random.get_rng_state(), state)
    for other in (first.get(1, 0), first.get(2, 1), batches(source, batch=20, seed=4).get(1, 1)):
        assert not torch.equal(other.images, alone.images)


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_ranks_are_the_batch_of_one(colour, augment, world):
    source = batches(colour, batch=20, augment=augment)
    whole = source.get(0, 1)
    shares = [source.get(0, 1, rank=rank, world=world) for rank in range(world)]
    for name in ("images", "targets", "indices"):
        joined = torch.cat([getattr(share, name) for share in shares])
        assert torch.equal(joined, getattr(whole, name))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(colour, workers):
    source = batches(colour, batch=16, augment=EVERYTHING)
    assert source.steps_per_epoch == 3
    alone = list(source.iterate(2, stop=9))
    ahead = list(source.iterate(2, stop=9, workers=workers))
    assert len(alone) == len(ahead) == 7
    assert all(same(a, b) for a, b in zip(alone, ahead, strict=True))
    assert same(alone[1], source.get(1, 0))


def test_workers_hand_errors_over_and_stop_when_left(colour, monkeypatch):
    source = batches(colour, batch=16)
    some = source.iterate(0, stop=1000, workers=2)
    next(some)
    some.close()
    monkeypatch.setattr(source, "normalised", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(source.iterate(0, stop=3, workers=2))


def test_an_epoch_has_each_image_once_in_a_new_order(sample):
    source = batches(sample, batch=100, drop_last=False)
    orders = [torch.cat([b.indices for b in source.iterate(e * 9, stop=e * 9 + 9)]) for e in (0, 1)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(900))
    assert not torch.equal(*orders)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_has_each_image_once_in_order(sample, world):
    source = batches(sample, batch=64, shuffle=False, drop_last=False)
    assert len(source) == source.steps_per_epoch == 15
    indices = torch.cat(
        [
            source.get(0, number, rank=rank, world=world).indices
            for number in range(len(source))
            for rank in range(world)
        ]
    )
    assert torch.equal(indices, torch.arange(900))


def test_last_batches(sample):
    assert batches(sample, batch=64).steps_per_epoch == 14
    small = batches(sample, batch=2000)
    assert small.steps_per_epoch == 1
    assert len(small.get(0, 0)) == 900
    with pytest.raises(ConfigError, match="batch 14 of an epoch of 14 batches"):
        batches(sample, batch=64).get(0, 14)


def test_without_augmentation_images_are_normalised(colour):
    mean, std = statistics(colour)
    batch = batches(colour, shuffle=False, drop_last=False).get(0, 0)
    plain = colour.images[:32].astype(np.float64) / 255
    expected = (plain - np.array(mean)) / np.array(std)
    assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert batch.targets.tolist() == colour.labels[:32].tolist()


def rows_and_draws(augment: Augment, n: int, image=(20, 24)):
    return np.arange(n), draw(augment, n, image, np.random.default_rng(0))


def test_flip_and_shift_move_pixels_and_bring_in_black(colour):
    images = colour.images[:24] // 2 + 1
    augment = Augment(flip=0.5, shift=0.2)
    rows, draws = rows_and_draws(augment, 24)
    out = augmentation.place(augment, images, draws, rows)
    assert draws.flip.any()
    assert not draws.flip.all()
    assert set(np.unique(draws.shift[:, 0])) <= set(range(-4, 5))
    assert set(np.unique(draws.shift[:, 1])) <= set(range(-5, 6))
    for i in range(24):
        (down, right), image = draws.shift[i], images[i]
        padded = np.pad(image[:, ::-1] if draws.flip[i] else image, ((9, 9), (9, 9), (0, 0)))
        assert np.array_equal(out[i], padded[9 - down : 29 - down, 9 - right : 33 - right])


def test_shifts_may_bring_in_the_mirrored_border(colour):
    """The same draws show the same pixels as over black, and at the border their mirror image."""
    images = colour.take(np.arange(8))
    draws = draw(Augment(shift=0.2), 8, (20, 24), generator(0))
    black, filled = (
        augmentation.place(Augment(shift=0.2, border=border), images, draws, np.arange(8))
        for border in ("black", "mirrored")
    )
    for one, dark, whole in zip(images, black, filled, strict=True):
        seen = dark.any(-1)
        assert np.array_equal(dark[seen], whole[seen])
        assert {tuple(pixel) for pixel in whole.reshape(-1, 3)} <= {
            tuple(pixel) for pixel in one.reshape(-1, 3)
        }
    down, right = 2, -3
    [moved] = augmentation._shifted(images[:1], [(down, right)], [False], "mirrored")
    assert np.array_equal(moved[0, :20], images[0, down, 3:23])
    assert np.array_equal(moved[5, 21:], images[0, 3, [22, 21, 20]])


def test_alternating_flips_show_both_sides_in_two_epochs(colour):
    plain = batches(colour, shuffle=False, drop_last=False)
    turning = batches(
        colour, shuffle=False, drop_last=False, augment=Augment(shift=0, flips="alternating")
    )
    flipped = []
    for epoch in range(3):
        views = [turning.get(epoch, number) for number in range(len(turning))]
        seen = torch.cat([view.images for view in views])
        images = torch.cat([plain.get(0, number).images for number in range(len(plain))])
        turned = torch.cat([view.views for view in views]).bool()
        assert torch.equal(seen, torch.where(turned[:, None, None, None], images.flip(3), images))
        flipped.append(turned)
    assert torch.equal(flipped[0], ~flipped[1]) and torch.equal(flipped[0], flipped[2])
    assert 0.2 < flipped[0].float().mean() < 0.8
    never = batches(colour, augment=Augment(flip=0, shift=0, flips="alternating")).get(1, 0)
    assert not never.views.any()


def test_crops_are_resized_back(colour):
    images = np.array(colour.images[:10])
    augment = Augment(flip=0, scale=(0.2, 0.6))
    rows, draws = rows_and_draws(augment, 10)
    out = augmentation.place(augment, images, draws, rows)
    shares = draws.crop[:, 2] * draws.crop[:, 3] / 480
    assert ((shares > 0.15) & (shares < 0.7)).all()
    for i in range(10):
        top, left, height, width = draws.crop[i].tolist()
        crop = torch.from_numpy(images[i]).permute(2, 0, 1)
        back = torchvision.transforms.v2.functional.resized_crop(
            crop, top, left, height, width, [20, 24], antialias=False
        )
        assert abs(out[i].astype(int) - back.permute(1, 2, 0).numpy()).max() <= 1
    rows, draws = rows_and_draws(Augment(flip=0, scale=(1, 1)), 10)
    assert (draws.crop[:, 2:] > 15).all()


def test_mixup_and_cutmix_mix_images_and_targets_alike():
    labels = np.arange(40)
    ones = np.broadcast_to(labels[:, None, None, None], (40, 20, 24, 1)).astype(np.float32)
    for augment in (Augment(mixup=0.5), Augment(cutmix=1.0), Augment(mixup=0.5, cutmix=1.0)):
        rows, draws = rows_and_draws(augment, 40)
        out = augmentation.blend(ones.copy(), ones[draws.partner], draws, rows)
        targets = augmentation.soften(labels, draws, rows, 40)
        # Every image holds the number of its class, so its mean is the mean of its targets.
        assert np.allclose(out.mean((1, 2, 3)), targets @ labels, atol=1e-3)
        assert np.allclose(targets.sum(1), 1)
        assert (targets.max(1) < 0.999).mean() > 0.5
        kinds = {len(np.unique(image)) for image in out}
        assert 1 in kinds if augment.mixup else 2 in kinds
        if augment.cutmix:
            assert 2 in kinds


def test_erasing_leaves_the_mean(colour):
    augment = Augment(flip=0, shift=0, erasing=0.5)
    plain = batches(colour, augment=Augment(flip=0, shift=0)).get(0, 0).images
    erased = batches(colour, augment=augment).get(0, 0).images
    changed = (plain != erased).any(1)
    share = changed.float().mean((1, 2))
    assert 5 <= (share > 0).sum() <= 27
    assert share.max() <= 0.4
    assert (erased.permute(0, 2, 3, 1)[changed] == 0).all()


def test_one_mixture_for_a_batch_is_timm_s():
    """Each batch takes mixup or CutMix, whole, and is mixed with itself reversed."""
    labels = np.arange(12)
    ones = np.broadcast_to(labels[:, None, None, None], (12, 20, 24, 1)).astype(np.float32)
    augment, kinds, shares = Augment(mixup=0.8, cutmix=1.0, mixing="batch"), [], []
    for seed in range(200):
        draws = draw(augment, 12, (20, 24), np.random.default_rng(seed))
        assert draws.partner.tolist() == list(range(11, -1, -1))
        assert len(np.unique(draws.weight)) == len(np.unique(draws.patch, axis=0)) == 1
        kinds.append(bool(draws.patch[0, 2:].all()))
        shares.append(draws.weight[0])
        out = augmentation.blend(ones.copy(), ones[::-1], draws, labels)
        targets = augmentation.soften(labels, draws, labels, 12)
        assert np.allclose(out.mean((1, 2, 3)), targets @ labels, atol=1e-3)
    assert 0.35 < np.mean(kinds) < 0.6  # some rectangles have no area
    assert 0.35 < np.mean(np.array(shares)[~np.array(kinds)]) < 0.65


def test_google_mixes_with_the_neighbour_and_keeps_the_larger_share():
    shares = []
    for seed in range(100):
        draws = draw(Augment(mixup=0.5, mixing="roll"), 5, (4, 4), np.random.default_rng(seed))
        assert draws.partner.tolist() == [4, 0, 1, 2, 3]
        shares.append(draws.weight[0])
    assert min(shares) >= 0.5 and max(shares) < 1


def test_erased_rectangles_may_hold_noise(sample):
    augment = Augment(flip=0, shift=0, erasing=1.0, noise=True)
    plain = batches(sample, augment=Augment(flip=0, shift=0)).get(0, 0).images
    erased = batches(sample, augment=augment).get(0, 0).images
    noise = erased[plain != erased]
    assert len(noise) > 2000
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_erasing_comes_before_mixing(sample):
    """What is erased of an image shows the other, as timm does it image by image."""
    erased = batches(sample, augment=Augment(flip=0, shift=0, erasing=1.0)).get(0, 0).images
    augment = Augment(flip=0, shift=0, mixup=0.8, erasing=1.0)
    draws = draw(augment, 32, (28, 28), generator(3, 0, 1))
    share = torch.from_numpy(draws.weight).float().view(-1, 1, 1, 1)
    expected = share * erased + (1 - share) * erased[draws.partner]
    mixed = batches(sample, augment=augment).get(0, 0).images
    torch.testing.assert_close(mixed, expected)


def test_repeats_show_fewer_images_in_as_many_batches(sample):
    once, thrice = (batches(sample, augment=Augment(repeats=r)) for r in (1, 3))
    assert once.steps_per_epoch == thrice.steps_per_epoch == 28
    seen = torch.cat([b.indices for b in thrice.iterate(stop=28)])
    assert torch.equal(seen[:894:3], seen[1:894:3]) and torch.equal(seen[:894:3], seen[2:894:3])
    assert len(seen.unique()) == 299
    first = thrice.get(0, 0)
    assert not torch.equal(first.images[0], first.images[1])
    later = torch.cat([b.indices for b in thrice.iterate(28, stop=56)])
    assert not torch.equal(seen, later)
    assert torch.equal(once.get(0, 0).indices[:5], seen[:15:3])


def test_randaugment_does_what_torchvision_does(colour):
    batch = torch.from_numpy(np.array(colour.images[:6])).permute(0, 3, 1, 2).contiguous()
    from torchvision.transforms import v2

    reference = v2.RandAugment()
    for name, key in (
        ("identity", "Identity"), ("shear_x", "ShearX"), ("shear_y", "ShearY"),
        ("translate_x", "TranslateX"), ("translate_y", "TranslateY"), ("rotate", "Rotate"),
        ("brightness", "Brightness"), ("color", "Color"), ("contrast", "Contrast"),
        ("sharpness", "Sharpness"), ("posterize", "Posterize"), ("solarize", "Solarize"),
        ("autocontrast", "AutoContrast"), ("equalize", "Equalize"),
    ):  # fmt: skip
        magnitudes, signed = reference._AUGMENTATION_SPACE[key]
        for sign in (1, -1) if signed else (1,):
            value = 0.0
            if (levels := magnitudes(31, 20, 24)) is not None:
                value = sign * float(levels[9])
            expected = reference._apply_image_or_video_transform(
                batch, key, value, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            ours = operate(batch, name, sign, 9)
            # Magnitudes that pass through float32 there may round to the neighbouring level.
            difference = (ours.int() - expected.int()).abs()
            assert difference.max() <= 1, name
            assert (difference > 0).float().mean() < 0.02, name


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 2}, {"shift": -0.1}, {"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"mixup": -1},
        {"randaugment": (2, 31)}, {"erasing": 1.5},
    ],
)  # fmt: skip
def test_values_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"augment.{next(iter(wrong))} is .*expected"):
        Augment(**wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch": 0}, "batch is 0: expected at least 1"),
        ({"seed": -1}, "seed is -1: expected"),
        ({"mean": (0.5,) * 3}, "mean has 3 values and std 1: expected one for each of the 1 chan"),
    ],
)
def test_wrong_arguments(sample, wrong, words):
    with pytest.raises(ConfigError, match=words):
        batches(sample, **wrong)


def test_batches_stream_too(tmp_path):
    root = write_classes(tmp_path / "photos", {"a": 10, "b": 10})
    split = divide(inspect(open_source(root), progress=False))
    whole = pixels(split.train, (12, 12), 3, folder=tmp_path, progress=False)
    stream = pixels(split.train, (12, 12), 3, folder=tmp_path / "x", progress=False, limit_bytes=9)
    assert stream.images is None
    for a, b in zip(
        batches(whole, batch=5, augment=EVERYTHING).iterate(0, stop=4),
        batches(stream, batch=5, augment=EVERYTHING).iterate(0, stop=4, workers=2),
        strict=True,
    ):
        assert same(a, b)
