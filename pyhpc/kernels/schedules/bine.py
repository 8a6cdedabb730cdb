"""Bine (binomial negabinary) butterfly: halving and doubling between ranks whose negabinary numbers differ in the end.

    step k of reduce-scatter:  even numbers exchange with r + d, odd ones with r − d, d = 1 − 2 + 4 − … ± 2^k

The distances are alternating sums of powers of two, a third less than the hypercube's, and the largest messages go the
shortest way: less traffic leaves a leaf switch or group. Same messages and volume as halving_doubling at powers of two;
other numbers of ranks by the simple fold. On a ring its partners are those of one direction of Swing.

Source: D. De Sensi, S. Pasqualoni, L. Piarulli, T. Bonato, S. Ba, M. Turisini, J. Domke and T. Hoefler, Bine trees:
enhancing collective operations by optimizing communication locality, SC 2025.
"""

from __future__ import annotations

from pyhpc.kernels.schedules import swing
from pyhpc.kernels.schedules.butterfly import butterfly

ALGORITHM = butterfly(
    "bine",
    "halving and doubling over alternating sums of powers of two: short ways (De Sensi et al. 2025)",
    (swing.partner,),
)
