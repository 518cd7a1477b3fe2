"""Pictures of runs, each with the data behind it."""

NAMES = (
  'compare',
  'curves',
  'embedding',
  'few_label',
  'gradients',
  'robustness',
  'scores',
)
