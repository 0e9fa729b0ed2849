"""Student's t distribution: its tail and its quantile, in plain Python, since the rule has to load without torch."""

import math


def tail(value: float, freedom: int) -> float:
    """P(T > value) of `freedom` degrees."""
    share = 0.5 * _beta_share(freedom / (freedom + value * value), freedom / 2, 0.5)
    return share if value >= 0 else 1 - share


def quantile(share: float, freedom: int) -> float:
    """The value below which T is with the probability `share`, between 0 and 1."""
    if share < 0.5:
        return -quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while tail(high, freedom) > 1 - share:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > 1 - share else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny, c, d = 1e-300, 1.0, 1 / max(1 - (a + b) * x / (a + 1), 1e-300)
    fraction = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for step in (even, odd):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            fraction *= c * d
        if abs(fraction - before) < 1e-15 * abs(fraction):
            break
    return math.exp(log_front) * fraction / a
