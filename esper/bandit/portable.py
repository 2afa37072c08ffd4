"""Logarithm, exponential and normal quantile with the same bits on every machine.

C libraries and vector units differ in the last bits of these functions. The functions here use only
sums, products, quotients and square roots, which IEEE 754 rounds exactly, with one numpy call per
operation, so that no compiler fuses two. An entry's result does not depend on its neighbours.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SQRT_HALF: Final = 0.7071067811865476
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_ONE_OVER_LN2: Final = 1.44269504088896338700e00
_LEAST_EXPONENT: Final = -708.0
_GREATEST_EXPONENT: Final = 709.0

_LOG_EVEN: Final = (1.531383769920937332e-01, 2.222219843214978396e-01, 3.999999999940941908e-01)
_LOG_ODD: Final = (
    *(1.479819860511658591e-01, 1.818357216161805012e-01),
    *(2.857142874366239149e-01, 6.666666666666735130e-01),
)
_EXP: Final = (
    *(4.13813679705723846039e-08, -1.65339022054652515390e-06, 6.61375632143793436117e-05),
    *(-2.77777777770155933842e-03, 1.66666666666666019037e-01),
)


def log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the natural logarithm of positive finite numbers, within one unit in the last place.

    The method of fdlibm's `e_log.c` (Sun Microsystems, 1993), without its branches.
    """
    fraction, exponent = np.frexp(x)
    below = fraction < _SQRT_HALF
    f = (fraction + fraction * below) - 1.0
    k = (exponent - below).astype(np.float64)
    s = f / (f + 2.0)
    z = s * s
    w = z * z
    remainder = w * _polynomial(_LOG_EVEN, w) + z * _polynomial(_LOG_ODD, w)
    half = 0.5 * (f * f)
    found: NDArray[np.float64] = k * _LN2_HIGH - (
        (half - (s * (half + remainder) + k * _LN2_LOW)) - f
    )
    return found


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e to the power of numbers, within one unit in the last place.

    Below -708, where results would lose digits, the result is 0; above 709 it is the value at 709.
    The method of fdlibm's `e_exp.c` (Sun Microsystems, 1993), without its branches.
    """
    bounded = np.minimum(np.maximum(x, _LEAST_EXPONENT), _GREATEST_EXPONENT)
    k = np.rint(bounded * _ONE_OVER_LN2)
    high, low = bounded - k * _LN2_HIGH, k * _LN2_LOW
    reduced = high - low
    t = reduced * reduced
    c = reduced - t * _polynomial(_EXP, t)
    y = 1.0 - ((low - (reduced * c) / (2.0 - c)) - high)
    return np.ldexp(y, k.astype(np.int32)) * (x >= _LEAST_EXPONENT)


_CENTRE: Final = (
    (
        *(2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4),
        *(4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3),
        *(1.3314166789178437745e2, 3.3871328727963666080e0),
    ),
    (
        *(5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4),
        *(2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2),
        *(4.2313330701600911252e1, 1.0),
    ),
)
_TAIL: Final = (
    (
        *(7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1),
        *(1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0),
        *(4.63033784615654529590e0, 1.42343711074968357734e0),
    ),
    (
        *(1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2),
        *(1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0),
        *(2.05319162663775882187e0, 1.0),
    ),
)
_FAR_TAIL: Final = (
    (
        *(2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3),
        *(2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0),
        *(5.46378491116411436990e0, 6.65790464350110377720e0),
    ),
    (
        *(2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5),
        *(7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1),
        *(5.99832206555887937690e-1, 1.0),
    ),
)
_CENTRE_ENDS: Final = 0.425
_TAIL_ENDS: Final = 5.0

Ratio = tuple[Sequence[float], Sequence[float]]


def normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of the standard normal distribution at p in (0, 1).

    Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution" (Applied
    Statistics 37, 1988), routine PPND16; about one part in 10^16.
    """
    q = p - 0.5
    found = q * _ratio(_CENTRE, 0.180625 - q * q)
    outside = np.nonzero(np.abs(q) > _CENTRE_ENDS)[0]
    if len(outside):
        found[outside] = _outside(p[outside])
    return found


def _outside(p: NDArray[np.float64]) -> NDArray[np.float64]:
    below = p < 0.5
    r = np.sqrt(-log(np.where(below, p, 1.0 - p)))
    found = _ratio(_TAIL, r - 1.6)
    far = np.nonzero(r > _TAIL_ENDS)[0]
    if len(far):
        found[far] = _ratio(_FAR_TAIL, r[far] - 5.0)
    return np.where(below, -found, found)


def _ratio(coefficients: Ratio, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


def _polynomial(coefficients: Sequence[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of a polynomial, its highest coefficient first, by Horner's scheme."""
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
    return value
