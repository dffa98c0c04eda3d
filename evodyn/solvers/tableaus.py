"""Coefficients of the explicit pair and of the Rosenbrock method.

References
----------
Tsitouras, Ch. (2011). Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
assumption. Computers & Mathematics with Applications 62, 770-775.

Steinebach, G. (2023). Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the
Julia Differential Equations package. BIT Numerical Mathematics 63, 27.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from evodyn.core.arrays import FloatArray

__all__ = ["RODAS5P", "TSIT5", "ExplicitTableau", "RosenbrockTableau"]


@dataclasses.dataclass(frozen=True, eq=False)
class ExplicitTableau:
    """An explicit Runge-Kutta pair whose last stage is the first of the next step.

    Attributes
    ----------
    a : numpy.ndarray, shape (s, s)
        Weights of the stages; those of the step itself in the last row.
    c : numpy.ndarray, shape (s,)
        Times of the stages in units of the step.
    error : numpy.ndarray, shape (s,)
        Weights of the difference to the lower order.
    """

    a: FloatArray
    c: FloatArray
    error: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    """A stiffly accurate Rosenbrock method, in the form that needs no product with the Jacobian.

    With W = 1/(γh) - J the stages solve W k_i = f(t + c_i h, y + Σ a_ij k_j) + Σ g_ij k_j/h + d_i h ∂f/∂t.
    The last one is the error, and what it adds to its own argument is the step.

    Attributes
    ----------
    gamma : float
    a, g : numpy.ndarray, shape (s, s)
        Strictly lower triangular.
    c, d : numpy.ndarray, shape (s,)
    dense : numpy.ndarray, shape (3, s)
        The sums w_m = Σ dense_mj k_j make the interpolant
        (1 - θ) y_0 + θ (y_1 + (1 - θ)(w_1 + θ (w_2 + θ w_3))).
    """

    gamma: float
    a: FloatArray
    g: FloatArray
    c: FloatArray
    d: FloatArray
    dense: FloatArray


def _lower(rows: Sequence[Sequence[float]]) -> FloatArray:
    """Return the square matrix with these rows below its diagonal."""
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
TSIT5 = ExplicitTableau(
    a=_lower(
        [
            [],
            [0.161],
            [-0.008480655492356989, 0.335480655492357],
            [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
            [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
            [
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ],
            _B,
        ]
    ),
    c=np.array([0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0]),
    error=np.array(
        [
            0.0017800110522257714,
            0.0008164344596567469,
            -0.007880878010261995,
            0.1447110071732629,
            -0.5823571654525552,
            0.45808210592918697,
            -1 / 66,
        ]
    ),
)

_LAST = [
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
]
RODAS5P = RosenbrockTableau(
    gamma=0.21193756319429014,
    a=_lower(
        [
            [],
            [3.0],
            [2.849394379747939, 0.45842242204463923],
            [-6.954028509809101, 2.489845061869568, -10.358996098473584],
            [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
            _LAST,
            [*_LAST, 1.0],
            [*_LAST, 1.0, 1.0],
        ]
    ),
    g=_lower(
        [
            [],
            [-14.155112264123755],
            [-17.97296035885952, -2.859693295451294],
            [147.12150275711716, -1.41221402718213, 71.68940251302358],
            [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
            [
                24.854864614690072,
                -3.0009227002832186,
                47.4931110020768,
                5.5814197821558125,
                -0.6610691825249471,
            ],
            [
                30.91273214028599,
                -3.1208243349937974,
                77.79954646070892,
                34.28646028294783,
                -19.097331116725623,
                -28.087943162872662,
            ],
            [
                37.80277123390563,
                -3.2571969029072276,
                112.26918849496327,
                66.9347231244047,
                -40.06618937091002,
                -54.66780262877968,
                -9.48861652309627,
            ],
        ]
    ),
    c=np.array(
        [0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0]
    ),
    d=np.array(
        [
            0.21193756319429014,
            -0.42387512638858027,
            -0.3384627126235924,
            1.8046452872882734,
            2.325825639765069,
            0.0,
            0.0,
            0.0,
        ]
    ),
    dense=np.array(
        [
            [
                25.948786856663858,
                -2.5579724845846235,
                10.433815404888879,
                -2.3679251022685204,
                0.524948541321073,
                1.1241088310450404,
                0.4272876194431874,
                -0.17202221070155493,
            ],
            [
                -9.91568850695171,
                -0.9689944594115154,
                3.0438037242978453,
                -24.495224566215796,
                20.176138334709044,
                15.98066361424651,
                -6.789040303419874,
                -6.710236069923372,
            ],
            [
                11.419903575922262,
                2.8879645146136994,
                72.92137995996029,
                80.12511834622643,
                -52.072871366152654,
                -59.78993625266729,
                -0.15582684282751913,
                4.883087185713722,
            ],
        ]
    ),
)
