"""What costs next to nothing, held against a network: a constant, and two models on small pixels.

A figure says little alone: where 95 of 100 pictures show one class, a network that reaches 95 %
may have learned nothing. So beside every accuracy stand the answer that is always the same, a
linear model, and a kernel model (scikit-learn's) on images of 16x16 pixels; and, where there are
published weights, a linear model on the features that they give before any training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.data.cache import Pixels
from vitrail.data.decode import resize

SIDE = 16
# More images make these models slow and hardly better; the first ones of a part are a fair sample.
MOST = 4000


@dataclass(frozen=True, eq=False)
class Baseline:
    """A small model: its name as it continues a sentence, and what answers (None: a constant)."""

    name: str
    model: Any
    answer: int = 0

    @property
    def constant(self) -> bool:
        """Return whether it always says the same."""
        return self.model is None

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map features (N, D) to classes int64 (N,)."""
        if self.model is None:
            return np.full(len(features), self.answer, np.int64)
        return self.model.predict(features).astype(np.int64)


class Kernel:
    """A support vector machine with a Gaussian kernel, of features (n, D) and classes int64 (n,).

    The width of the kernel is that of scikit-learn's "scale". Kernels are computed as matrix
    products, since libsvm, left to itself, takes most of a minute for some thousands of images.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        from sklearn.svm import SVC

        self.known = features
        self.gamma = 1 / (features.shape[1] * max(float(features.var()), 1e-12))
        self.machine = SVC(C=10.0, kernel="precomputed").fit(self._kernel(features), labels)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map features (N, D) to classes (N,)."""
        parts = range(0, len(features), MOST)
        answers = [self.machine.predict(self._kernel(features[i : i + MOST])) for i in parts]
        return np.concatenate(answers) if answers else np.empty(0, np.int64)

    def _kernel(self, features: np.ndarray) -> np.ndarray:
        from sklearn.metrics.pairwise import rbf_kernel

        return rbf_kernel(features, self.known, self.gamma)


@dataclass(frozen=True, eq=False)
class Baselines:
    """The fitted baselines, and how images become their features."""

    models: Sequence[Baseline]
    mean: np.ndarray
    std: np.ndarray

    def features(self, images: np.ndarray) -> np.ndarray:
        """Map uint8 (N, H, W, C) to float32 (N, 16 16 C), as in the training."""
        return (small(images) - self.mean) / self.std


def baselines(train: Pixels, classes: Sequence[str], *, most: int = MOST) -> Baselines:
    """Fit the constant, the linear and the kernel model on up to `most` training images."""
    from sklearn.linear_model import RidgeClassifier

    rows = np.arange(min(most, len(train)))
    images, labels = small(train.take(rows)), train.labels[rows]
    mean, std = images.mean(0), images.std(0) + 1e-3
    features = (images - mean) / std
    common = int(np.bincount(train.labels, minlength=len(classes)).argmax())
    found = [Baseline(f"always {classes[common]!r}", None, common)]
    if len(np.unique(labels)) > 1:
        # A strong penalty, since pixels are many and much alike; least squares, since it is quick.
        linear = RidgeClassifier(alpha=100.0).fit(features, labels)
        kernel = Kernel(features, labels)
        found += [
            Baseline(f"linear model on {SIDE}x{SIDE} pixels", linear),
            Baseline(f"kernel model on {SIDE}x{SIDE} pixels", kernel),
        ]
    return Baselines(found, mean, std)


@dataclass(frozen=True, eq=False)
class Features:
    """What a network that is not trained here sees: `name` continues "linear model on".

    `train` (n, D) are of the first training images, `test` (N, D) of all test images.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


# How strongly a linear model on features may be held back; leave-one-out chooses.
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)


def linear_on(features: Features, labels: np.ndarray) -> np.ndarray:
    """Return what a linear model on features answers: classes int64 (N,) of the test images.

    `labels` int64 (n,) are those of the training images, of two classes at least.
    """
    from sklearn.linear_model import RidgeClassifierCV

    train, test = _alike(features)
    found = RidgeClassifierCV(alphas=PENALTIES).fit(train, labels)
    return np.asarray(found.predict(test), np.int64)


def scores_on(features: Features, marks: np.ndarray) -> np.ndarray:
    """Return the same for several labels: scores float32 (N, K), from marks of 0 and 1 (n, K)."""
    from sklearn.linear_model import RidgeCV

    train, test = _alike(features)
    return _columns(RidgeCV(alphas=PENALTIES).fit(train, marks).predict(test))


def _alike(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Scale features to a mean of 0 and a deviation of 1 in the training images."""
    mean, std = features.train.mean(0), features.train.std(0) + 1e-6
    return (features.train - mean) / std, (features.test - mean) / std


def small(images: np.ndarray) -> np.ndarray:
    """Map uint8 (N, H, W, C) to float32 (N, 16 16 C) in [0, 1]."""
    shrunk = resize(images, (SIDE, SIDE)) if images.shape[1:3] != (SIDE, SIDE) else images
    return shrunk.reshape(len(images), -1).astype(np.float32) / 255


@dataclass(frozen=True, eq=False)
class LabelBaseline:
    """A small model of several labels: its name in a sentence, and `scores` float32 (N, K)."""

    name: str
    scores: np.ndarray
    constant: bool = False


def label_baselines(train: Pixels, test: Pixels, *, most: int = MOST) -> Sequence[LabelBaseline]:
    """Return what each label's frequency and a linear model, fitted on `train`, say of `test`."""
    from sklearn.linear_model import Ridge

    rows = np.arange(min(most, len(train)))
    images, marks = small(train.take(rows)), train.labels[rows].astype(np.float32)
    mean, std = images.mean(0), images.std(0) + 1e-3
    shares = np.tile(train.labels.mean(0, dtype=np.float32), (len(test), 1))
    linear = Ridge(alpha=100.0).fit((images - mean) / std, marks)
    asked = (small(test.take(np.arange(len(test)))) - mean) / std
    return [
        LabelBaseline("always each label's frequency", shares, True),
        LabelBaseline(f"linear model on {SIDE}x{SIDE} pixels", _columns(linear.predict(asked))),
    ]


def _columns(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float32)
