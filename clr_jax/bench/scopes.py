"""Names of the parts of a training step, as they stand in the operations of its program.

The step opens the scopes (experiment/train_step.py); Flax adds the names of modules.
"""

from __future__ import annotations

import re

AUGMENTATION = re.compile(r'\baugmentation\b')
OPTIMIZER = re.compile(r'\boptimizer\b')  # with the method's state
NORMALIZATION = re.compile(r'\b(downsample_bn|bn\d|norm\d)\b')
