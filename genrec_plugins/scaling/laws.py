"""The two laws of a scaling curve, solved by least squares for many sets of values at once.

- power: ``y = a + b x^-c`` with a, b >= 0 and c in :data:`EXPONENTS`, for losses; a is what no size takes away.
- log: ``y = slope ln(x) + intercept``, as LUM reports its recall (arXiv 2502.08309).

The bootstrap refits a law thousands of times on the same sizes. For one c the power law is linear in a and b, so all
refits share a grid over c, and a golden section around the best point of each: no starting value, nothing that fails
to converge.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Law = Literal["power", "log"]

CONSTANTS: dict[Law, tuple[str, ...]] = {"power": ("a", "b", "c"), "log": ("slope", "intercept")}
#: the exponents that are looked at; outside of them a power law is a step or a straight line over any range of sizes
EXPONENTS = (0.01, 10.0)
_GRID = np.geomspace(*EXPONENTS, 120)
_GOLDEN = (np.sqrt(5.0) - 1) / 2


def solve(law: Law, x: Floats, y: Floats) -> Floats:
    """Least squares.

    Args:
        law: which.
        x: ``[n]`` sizes above 0, at least two different ones.
        y: ``[B, n]`` values, B times.

    Returns:
        ``[B, p]`` constants in the order of ``CONSTANTS[law]``.

    Example::

        >>> x = np.array([1.0, 10.0, 100.0, 1000.0])
        >>> solve("log", x, 0.2 * np.log(x)[None] + 1).round(6).tolist()
        [[0.2, 1.0]]
        >>> solve("power", x, 0.3 + 2 * x[None] ** -0.5).round(4).tolist()
        [[0.3, 2.0, 0.5]]
    """
    return _solve_log(x, y) if law == "log" else _solve_power(x, y)


def predict(law: Law, constants: Floats, x: Floats) -> Floats:
    """Values ``[B, m]`` of B sets of constants ``[B, p]`` at sizes ``[m]``.

    Example::

        >>> predict("power", np.array([[0.5, 2.0, 1.0]]), np.array([1.0, 4.0])).tolist()
        [[2.5, 1.0]]
    """
    if law == "log":
        slope, intercept = constants[:, :1], constants[:, 1:2]
        return slope * np.log(x) + intercept
    a, b, c = constants[:, :1], constants[:, 1:2], constants[:, 2:3]
    # b is of the order x^c: multiplying logarithms keeps large sizes with large exponents in range
    with np.errstate(divide="ignore"):
        return a + np.exp(np.log(b) - c * np.log(x))


def jacobian(law: Law, constants: Floats, x: Floats) -> Floats:
    """Derivatives ``[n, p]`` of the values by the free constants; those at a bound (a = 0, b = 0) are left out."""
    if law == "log":
        return np.stack([np.log(x), np.ones_like(x)], axis=1)
    a, b, c = constants
    columns = [np.ones_like(x)] if a > 0 else []
    if b > 0:
        middle = np.exp(np.log(x).mean())
        power = (x / middle) ** -c  # scaled: the hat matrix does not care, the QR does
        columns += [power, -np.log(x / middle) * power]
    return np.stack(columns, axis=1) if columns else np.zeros((len(x), 0))


def _solve_log(x: Floats, y: Floats) -> Floats:
    z = np.log(x)
    centred = z - z.mean()
    slope = (y @ centred) / (centred @ centred)
    return np.stack([slope, y.mean(axis=1) - slope * z.mean()], axis=1)


def _solve_power(x: Floats, y: Floats) -> Floats:
    middle = np.exp(np.log(x).mean())
    t = np.log(x / middle)
    on_grid = [_linear_part(np.exp(-c * t)[None], y)[2] for c in _GRID]
    best = np.argmin(np.stack(on_grid, axis=1), axis=1)
    low = np.log(_GRID[np.maximum(best - 1, 0)])
    high = np.log(_GRID[np.minimum(best + 1, len(_GRID) - 1)])

    def loss(log_c: Floats) -> Floats:
        return _linear_part(np.exp(-np.exp(log_c)[:, None] * t), y)[2]

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(40):
        smaller = at_left < at_right
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
        new = np.where(smaller, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = loss(new)
        left, right = np.where(smaller, new, right), np.where(smaller, left, new)
        at_left, at_right = np.where(smaller, at_new, at_right), np.where(smaller, at_left, at_new)
    c = np.exp((low + high) / 2)
    a, b, _ = _linear_part(np.exp(-c[:, None] * t), y)
    return np.stack([a, b * middle**c, c], axis=1)


def _linear_part(z: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """The best a, b >= 0 in ``y = a + b z`` and their squared error, ``[B]`` each; z is ``[1 or B, n]``."""
    z_mean, y_mean = z.mean(axis=1), y.mean(axis=1)
    centred = z - z_mean[:, None]
    spread = (centred * centred).sum(axis=1)
    b = np.divide((centred * y).sum(axis=1), spread, out=np.zeros(len(y)), where=np.broadcast_to(spread > 0, len(y)))
    a = y_mean - b * z_mean
    # On the edges of the quarter plane: a = 0, or b = 0. The error is convex, so the better edge is the answer.
    b_edge = np.maximum((z * y).sum(axis=1) / (z * z).sum(axis=1), 0)
    a_edge = np.maximum(y_mean, 0)
    error_b, error_a = _error(z, y, 0 * b_edge, b_edge), _error(z, y, a_edge, 0 * a_edge)
    inside = (a >= 0) & (b >= 0)
    b_better = error_b <= error_a
    a = np.where(inside, a, np.where(b_better, 0, a_edge))
    b = np.where(inside, b, np.where(b_better, b_edge, 0))
    return a, b, _error(z, y, a, b)


def _error(z: Floats, y: Floats, a: Floats, b: Floats) -> Floats:
    residual = y - a[:, None] - b[:, None] * z
    return np.einsum("bn,bn->b", residual, residual)
