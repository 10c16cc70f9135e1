"""The special functions and the root finder of scipy that `theory` uses, with the types that scipy does not ship."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special  # pyright: ignore[reportMissingTypeStubs]

Elementwise = Callable[..., NDArray[np.float64]]

beta: Elementwise = special.beta
betainc: Elementwise = special.betainc
betaincinv: Elementwise = special.betaincinv
betaln: Elementwise = special.betaln
boxcox: Elementwise = special.boxcox
expit: Elementwise = special.expit
exprel: Elementwise = special.exprel
gammaln: Elementwise = special.gammaln
wrightomega: Callable[..., NDArray[np.complex128]] = special.wrightomega
xlog1py: Elementwise = special.xlog1py
xlogy: Elementwise = special.xlogy

brentq: Callable[..., float] = optimize.brentq  # pyright: ignore
