import numpy as np
import pytest

from clr_jax.ops.batches import batches


@pytest.mark.parametrize(
  ('num', 'size', 'expected'),
  [
    (5, 2, [([10, 11], 2), ([12, 13], 2), ([14, 14], 1)]),
    (4, 4, [([10, 11, 12, 13], 4)]),
    (1, 3, [([10, 10, 10], 1)]),
    (0, 3, []),
  ],
)
def test_batches_have_one_size_and_end_with_copies(num, size, expected):
  found = [(rows.tolist(), real) for rows, real in batches(np.arange(10, 10 + num), size)]
  assert found == expected
