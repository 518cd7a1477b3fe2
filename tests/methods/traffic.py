"""Traffic of a compiled step, from XLA's text."""

import math
import re

from clr_jax.bench.communication import found as collectives
from clr_jax.bench.hlo import Shape

HOST = re.compile(r'callback|infeed|outfeed|\bsend\(|\brecv\(|is_host_transfer=true', re.IGNORECASE)


def check(text: str, pixels: int) -> None:
  """The host is asked nothing; devices sum, and send nothing as large as the views of a batch."""
  assert not HOST.search(text)
  found = collectives(text)
  assert any(operation == 'all-reduce' for operation, _ in found)
  assert 'all-to-all' not in {operation for operation, _ in found}
  for (operation, shape), _ in found.items():
    assert math.prod(Shape(shape).dimensions) < pixels or operation == 'all-reduce', (
      operation,
      shape,
    )
