"""Laws of scale: how errors fall with compute, and which shape a budget of compute asks for.

The saturating power law E = a (C + d)^-b + c of a frontier: Zhai et al., "Scaling Vision
Transformers", CVPR 2022, arXiv 2106.04560. The form of one dimension of a shape, f = alpha x^-a +
(beta x^b + xi) t^-c + eps: Alabdulmohsin et al., "Getting ViT in Shape", NeurIPS 2023, arXiv
2305.13035. Both are fitted by least squares in log error, all parameters positive as exponentials,
from many starts (scipy); intervals are bootstrapped over the points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vitrail.errors import ConfigError

STARTS, DRAWS = 24, 60
Interval = tuple[float, float]


@dataclass(frozen=True)
class Saturating:
    """A fitted E(C) = a (C + d)^-b + c, with the 95 % interval of each parameter by its name."""

    a: float
    b: float
    c: float
    d: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def error(self, compute: float | np.ndarray) -> np.ndarray:
        """Return the error at some compute, in the units of the fit."""
        return self.a * (np.asarray(compute, float) + self.d) ** -self.b + self.c


@dataclass(frozen=True)
class Shape:
    """A fitted f(x, t) = alpha x^-a + (beta x^b + xi) t^-c + eps of one dimension x of a shape.

    `growth` is c / (a + b): the best x grows with compute t to this power. It is known far better
    than the parameters that it is made of.
    """

    alpha: float
    a: float
    beta: float
    b: float
    xi: float
    c: float
    eps: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def growth(self) -> float:
        """Return the power of compute by which the best size grows."""
        return self.c / (self.a + self.b)

    def error(self, x: float | np.ndarray, t: float | np.ndarray) -> np.ndarray:
        """Return the error of a size x after compute t."""
        x, t = np.asarray(x, float), np.asarray(t, float)
        return self.alpha * x**-self.a + (self.beta * x**self.b + self.xi) * t**-self.c + self.eps

    def best(self, t: float) -> float:
        """Return the size with the least error after compute t."""
        ratio = self.alpha * self.a * t**self.c / (self.beta * self.b)
        return float(ratio ** (1 / (self.a + self.b)))


def frontier(compute: Sequence[float], errors: Sequence[float]) -> np.ndarray:
    """Return rows of points that no point of as little compute beats, the least compute first."""
    order = np.lexsort((np.asarray(errors), np.asarray(compute)))
    least, kept = np.inf, []
    for row in order:
        if errors[row] < least:
            kept.append(row)
            least = errors[row]
    return np.array(kept, int)


def fit_saturating(
    compute: Sequence[float], errors: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> Saturating:
    """Fit the saturating power law to points of a frontier. Raises ConfigError for fewer than five.

    Examples:
        >>> c = np.geomspace(1, 1e4, 12)
        >>> law = fit_saturating(c, 0.9 * (c + 2) ** -0.35 + 0.1, draws=0)
        >>> round(law.b, 3), round(law.c, 3)
        (0.35, 0.1)
    """
    x, y = _checked(compute, errors, least=5)
    middle = _middle(x)

    def model(p: np.ndarray, at: np.ndarray) -> np.ndarray:
        a, b, c, d = np.exp(p)
        return a * (at / middle + d) ** -b + c

    def start(random: np.random.Generator) -> np.ndarray:
        low, high = y.min(), y.max()
        c, b = low * random.uniform(0.05, 0.98), random.uniform(0.1, 1.0)
        return np.log([max(high - c, low / 10), b, c, 10 ** random.uniform(-4, 0.5)])

    best, drawn = _fitted(model, start, (x,), y, draws, seed)
    found = np.array([_unscaled(np.exp(p), middle) for p in (best, *drawn)])
    return Saturating(*found[0].tolist(), intervals=_intervals(found[1:], ("a", "b", "c", "d")))


def _unscaled(p: np.ndarray, middle: float) -> np.ndarray:
    a, b, c, d = p
    return np.array([a * middle**b, b, c, d * middle])


def fit_shape(
    sizes: Sequence[float],
    compute: Sequence[float],
    errors: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Shape:
    """Fit the form of one dimension to sizes, compute and errors; `intervals` has "growth" as well.

    Raises ConfigError for fewer than eight points, or fewer than three sizes or amounts of compute.
    """
    x, y = _checked(sizes, errors, least=8)
    t, _ = _checked(compute, errors, least=8)
    if len(np.unique(x)) < 3 or len(np.unique(t)) < 3:
        raise ConfigError(
            f"{len(np.unique(x))} sizes at {len(np.unique(t))} amounts of compute do not tell a "
            "shape: give three of each at least"
        )
    mx, mt = _middle(x), _middle(t)

    def model(p: np.ndarray, at: np.ndarray, spent: np.ndarray) -> np.ndarray:
        alpha, a, beta, b, xi, c, eps = np.exp(p)
        u, v = at / mx, spent / mt
        return alpha * u**-a + (beta * u**b + xi) * v**-c + eps

    def start(random: np.random.Generator) -> np.ndarray:
        shares = random.dirichlet((1, 1, 1, 1)) * np.median(y)
        a, b, c = random.uniform(0.1, 1.5, 3)
        return np.log(np.maximum([shares[0], a, shares[1], b, shares[2], c, shares[3]], 1e-6))

    best, drawn = _fitted(model, start, (x, t), y, draws, seed)
    names = ("alpha", "a", "beta", "b", "xi", "c", "eps")
    found = np.array([_shape_unscaled(np.exp(p), mx, mt) for p in (best, *drawn)])
    growth = (found[:, 5] / (found[:, 1] + found[:, 3]))[:, None]
    intervals = _intervals(np.hstack([found, growth])[1:], (*names, "growth"))
    return Shape(*found[0].tolist(), intervals=intervals)


def _shape_unscaled(p: np.ndarray, mx: float, mt: float) -> np.ndarray:
    alpha, a, beta, b, xi, c, eps = p
    return np.array([alpha * mx**a, a, beta * mx**-b * mt**c, b, xi * mt**c, c, eps])


def scaled(
    start: Mapping[str, int],
    growth: Mapping[str, float],
    times: float,
    multiples: Mapping[str, int],
) -> dict[str, int]:
    """Return a shape for `times` as much compute: each size grows by its own power.

    Sizes are rounded to `multiples`, 1 where there is none.

    Examples:
        >>> scaled({"dim": 64, "depth": 4}, {"dim": 0.22, "depth": 0.45}, 16, {"dim": 16})
        {'dim': 112, 'depth': 14}
    """
    found = {}
    for name, size in start.items():
        step = multiples.get(name, 1)
        found[name] = max(1, round(size * times ** growth[name] / step)) * step
    return found


def _checked(
    x: Sequence[float], y: Sequence[float], *, least: int
) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.asarray(x, float), np.asarray(y, float)
    if len(one) != len(two) or len(one) < least:
        raise ConfigError(f"a law of {len(one)} points is a guess: give {least} at least")
    if not (np.isfinite(one).all() and np.isfinite(two).all() and min(one.min(), two.min()) > 0):
        raise ConfigError("compute, sizes and errors must be above 0: leave out the others")
    return one, two


def _middle(x: np.ndarray) -> float:
    return float(np.exp(np.log(x).mean()))


Model = Callable[..., np.ndarray]


def _fitted(
    model: Model,
    start: Callable[[np.random.Generator], np.ndarray],
    inputs: tuple[np.ndarray, ...],
    y: np.ndarray,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the parameters of the best of many starts, and those of as
    many fits to drawn points.
    """
    random = np.random.default_rng(seed)
    tried = [_solved(model, start(random), inputs, y) for _ in range(STARTS)]
    best, _ = min(tried, key=lambda one: one[1])
    drawn = []
    for _ in range(draws):
        rows = random.integers(0, len(y), len(y))
        some = tuple(x[rows] for x in inputs)
        drawn.append(_solved(model, best, some, y[rows])[0])
    return best, drawn


def _solved(
    model: Model, start: np.ndarray, inputs: tuple[np.ndarray, ...], y: np.ndarray
) -> tuple[np.ndarray, float]:
    from scipy.optimize import least_squares

    target = np.log(y)

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.log(model(p, *inputs)) - target

    bound = np.full(len(start), 20.0)
    inside = np.clip(start, -bound + 1e-6, bound - 1e-6)
    found = least_squares(residuals, inside, bounds=(-bound, bound), max_nfev=2000)
    return found.x, float(found.cost)


def _intervals(drawn: np.ndarray, names: Sequence[str]) -> dict[str, Interval]:
    if not len(drawn):
        return {}
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
