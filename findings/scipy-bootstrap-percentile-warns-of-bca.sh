#!/usr/bin/env bash
# SciPy 1.17.1: scipy.stats.bootstrap with method "percentile" or "basic" warns that "The BCa confidence interval
# cannot be calculated" and suspects np.min, although no BCa interval was asked for, and the documentation lists this
# warning for method "BCa" alone. The cause is that the statistic is NaN for at least one resample, as a correlation is
# where all resampled pairs are the same one. One such resample of thousands makes the whole interval NaN.
# Seen for the Pearson correlation of 5 pairs, 2000 paired resamples, method "percentile": the statistic is NaN for 2 of
# them, the interval is (nan, nan), and the warning speaks of BCa. Percentiles of the other 1998: (0.757, 1.000).
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import scipy
from scipy import stats

x, y = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.9, 2.5, 2.4, 4.2])


def correlation(x, y, axis=-1):
    x, y = x - x.mean(axis=axis, keepdims=True), y - y.mean(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=axis) / np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis))


def outcome(method):
    """The result, and the texts of warnings of degenerate data."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = stats.bootstrap((x, y), correlation, paired=True, method=method, n_resamples=2000, rng=0)
    return found, [str(each.message) for each in caught if each.category is stats.DegenerateDataWarning]


same = True
for method in ("percentile", "basic"):
    found, messages = outcome(method)
    values = found.bootstrap_distribution
    num_nan = int(np.isnan(values).sum())
    without = np.nanpercentile(values, [2.5, 97.5])
    print(f"scipy {scipy.__version__}, {method}: {num_nan} of {len(values)} NaN, {found.confidence_interval}")
    print(f"  percentiles without them {without}; {messages}")
    same &= 0 < num_nan < 20 and np.isnan(found.confidence_interval).all() and np.isfinite(without).all()
    same &= bool(messages) and all("BCa confidence interval cannot be calculated" in each for each in messages)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
