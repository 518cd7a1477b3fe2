"""A lower bound of the time of a step, from peak rates of the hardware."""

from __future__ import annotations

from clr_jax.bench import hardware
from clr_jax.bench.plan.parts import Costs
from clr_jax.bench.plan.targets import LAUNCH_SECONDS, Target


def seconds(
  target: Target, precision: str, costs: Costs, *, kept: int, sent: int
) -> dict[str, float]:
  """Least seconds of a step for each resource, and 'bound', the largest of them.

  No step can be faster, and real ones are slower: nothing reaches its peak, and one resource waits
  for another. 'launches' takes each kernel to be started by itself; XLA may record some in command
  buffers, which start sooner.

  Args:
    target: {} where the rates of its chips are not known, as of CPUs.
    precision: of the config, 'bfloat16' or 'float32'.
    costs: of `parts.costs`.
    kept: bytes of parameters and optimizer state, which a step reads and writes.
    sent: bytes that a device sends.
  """
  chip = target.chip
  peak = hardware.peak(chip.kind, precision)
  if peak is None or chip.bandwidth is None or chip.interconnect is None:
    return {}
  total = {key: sum(row[key] for row in costs.values()) for key in ('product_flops', 'kernels')}
  found = {
    'products': total['product_flops'] / peak,
    'memory': 2 * kept / chip.bandwidth,
    'communication': sent / chip.interconnect,
  }
  if chip.platform == 'cuda':
    found['launches'] = total['kernels'] * LAUNCH_SECONDS
  return found | {'bound': max(found.values())}
