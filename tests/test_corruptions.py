"""Corruptions: a function of seed and row, worse with severity, at any size, of grey as well."""

from __future__ import annotations

import numpy as np
import pytest
from support.pictures import photo

from vitrail.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from vitrail.corruptions.common import between, length, line
from vitrail.errors import ConfigError

EVERY = list(CORRUPTIONS)
RANDOM = {
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost",
    "fog", "elastic_transform",
}  # fmt: skip


def photos(height, width, n=3):
    return np.stack([np.asarray(photo(seed, height, width)) for seed in range(n)])


def apart(images, others):
    return float(np.sqrt(np.mean((images.astype(float) - others.astype(float)) ** 2)))


@pytest.mark.parametrize("name", EVERY)
def test_severities_are_ever_worse(name):
    for images in (photos(32, 32), photos(96, 120)):
        found = [apart(images, corrupted(images, name, severity)) for severity in SEVERITIES]
        assert found[0] > 0 and found == sorted(found), found
        assert found[4] > 1.3 * found[0]


@pytest.mark.parametrize("name", EVERY)
def test_what_is_drawn_is_a_function_of_seed_and_row(name):
    images = photos(28, 36, 4)
    before = images.copy()
    whole = corrupted(images, name, 3)
    assert np.array_equal(corrupted(images[2:], name, 3, rows=[2, 3]), whole[2:])
    other = corrupted(images, name, 3, seed=1)
    assert np.array_equal(other, whole) != (name in RANDOM)
    assert whole.dtype == np.uint8 and np.array_equal(images, before)
    same = np.repeat(images[:1], 2, 0)
    one, two = corrupted(same, name, 3)
    assert np.array_equal(one, two) != (name in RANDOM)


@pytest.mark.parametrize("name", EVERY)
def test_grey_and_odd_pictures_are_taken(name):
    grey = photos(28, 28)[..., :1]
    assert corrupted(grey, name, 5).shape == grey.shape
    for shape in ((1, 8, 9, 3), (1, 1, 1, 1), (2, 33, 17, 4)):
        assert corrupted(np.full(shape, 90, np.uint8), name, 5).shape == shape
    for level in (0, 255):
        flat = np.full((1, 16, 16, 3), level, np.uint8)
        assert corrupted(flat, name, 5).shape == flat.shape


def test_noise_is_as_strong_as_it_says():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    assert corrupted(grey, "gaussian_noise", 5).std() / 255 == pytest.approx(0.10, rel=0.05)
    large = np.full((1, 224, 224, 3), 128, np.uint8)
    assert corrupted(large, "gaussian_noise", 1).std() / 255 == pytest.approx(0.08, rel=0.05)
    hit = corrupted(large, "impulse_noise", 5) != 128
    assert hit.mean() == pytest.approx(0.27, rel=0.05)
    # Of n photons the deviation is the root.
    shot = corrupted(large, "shot_noise", 1) / 255
    assert shot.std() == pytest.approx((0.5 / 60) ** 0.5, rel=0.05)


def test_blurs_keep_the_light():
    images = photos(64, 64)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "pixelate"):
        assert corrupted(images, name, 5).mean() == pytest.approx(images.mean(), rel=0.02)
    for pixels, angle in ((0.3, 0.0), (7.0, 0.6)):
        assert line(pixels, angle).sum() == pytest.approx(1)
    one = line(5.0, 0.0)
    assert (one[one.shape[0] // 2] > 0.1).sum() >= 5 and one[0].sum() == 0


def test_contrast_and_brightness_by_hand():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :16] = [200, 100, 0]
    flat = corrupted(image, "contrast", 5)[0]
    assert flat[0, 0].tolist() == [115, 58, 0] and flat[31, 0].tolist() == [85, 43, 0]
    light = corrupted(image, "brightness", 3)[0]
    more = 200 / 255 + 0.15
    assert light[0, 0].tolist() == [round(255 * more), round(255 * more / 2), 0]
    assert (light[31, 0] == round(0.15 * 255)).all()


def test_strengths_follow_the_side():
    small, large = np.zeros((32, 50, 3)), np.zeros((224, 300, 3))
    values = (1, 1, 1, 1, 1), (4, 4, 4, 4, 4)
    assert (between(small, 2, *values), between(large, 2, *values)) == (1, 4)
    middle = np.zeros((85, 85, 1))  # about the geometric mean of 32 and 224
    assert between(middle, 2, *values) == pytest.approx(2, rel=0.01)
    assert (between(np.zeros((8, 8, 1)), 2, *values), length(large, 1, (3,))) == (1, 3)


def test_what_does_not_exist_is_named():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="'fogg' does not exist: did you mean 'fog'"):
        corrupted(images, "fogg", 1)
    with pytest.raises(ConfigError, match="severity 6 of fog does not exist: give 1 to 5"):
        corrupted(images, "fog", 6)
