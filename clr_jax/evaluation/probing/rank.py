"""RankMe, the effective rank of features."""

import numpy as np


def rankme(h: np.ndarray, *, max_rows: int = 2048, eps: float = 1e-7) -> float:
  """Effective rank of features: exp of the entropy of their normalized singular values.

  Garrido et al., RankMe, https://arxiv.org/abs/2210.02885, eq. 1 to 3. 1 = complete collapse.

  Args:
    h: [N, F], finite.
    max_rows: number of first rows to use; values are comparable only for equal numbers of rows.
    eps: constant added to the shares, as in the paper.
  """
  values = np.linalg.svd(np.asarray(h[:max_rows], np.float64), compute_uv=False)
  if not values.sum() > 0:
    return 1.0
  shares = values / values.sum() + eps
  return float(np.exp(-(shares * np.log(shares)).sum()))
