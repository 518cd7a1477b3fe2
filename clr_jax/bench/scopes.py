"""Names of the parts of a training step, as they stand in the operations of its program.

The step (experiment/train_step.py), crops and resizing (augment/random_ops.py, augment/policies.py)
and the blocks of transformers (models/transformer.py) open the scopes; Flax adds the names of
modules.
"""

from __future__ import annotations

import re

AUGMENTATION = re.compile(r'\baugmentation\b')
CROPS = re.compile(r'\baugmentation\b.*\bcrop\b')  # with the draw of the box, and resizing
OPTIMIZER = re.compile(r'\boptimizer\b')  # with the method's state
ATTENTION = re.compile(r'\battention\b')  # with the projections before and after
MLP = re.compile(r'\bmlp\b')  # of a transformer's block
# The last LayerNorm of a transformer is called norm; jit(norm) is the length of a vector.
NORMALIZATION = re.compile(r'\b(downsample_bn|bn\d|norm\d)\b|/norm/')
