"""Checker for robustness curves: the `curve_*` arrays of archive b_stats."""

from clr_jax.figures.analysis.distances import paper_curve, robust_error, summary


def check_curves(case, close):
  """Both conventions and the counts; the archive's other arrays are not looked at."""
  distances = case.curve_dist
  x, share, kept = paper_curve(distances, points=len(case.curve_paper_x))
  close(x, case.curve_paper_x, 'curve_paper_x')
  close(share, case.curve_paper_y, 'curve_paper_y')
  s = summary(distances)
  for name in ('median', 'mean', 'max'):
    close(getattr(s, name), case[f'curve_paper_{name}'], f'curve_paper_{name}')
  kind = list(case.curve_kind)
  counts = [kind.count(k) for k in ('clean_error', 'failed')]
  close(
    [s.clean_errors, s.never_fooled, len(kept)], [*counts, len(kind) - sum(counts)], 'curve_kind'
  )
  close(robust_error(distances, case.curve_eps), case.curve_robust_error, 'curve_robust_error')
