"""Lower bound of the time of a step, from peak rates of the hardware."""

from __future__ import annotations

from clr_jax.bench import hardware
from clr_jax.bench.plan.parts import Costs
from clr_jax.bench.plan.targets import LAUNCH_SECONDS, Target


def seconds(
  target: Target, precision: str, costs: Costs, *, kept: int, sent: int
) -> dict[str, float]:
  """Minimum seconds of a step by resource, and 'bound', the largest of them.

  Real steps are slower, because no resource reaches its peak and resources wait for each other.
  'launches' assumes that each kernel is launched separately; XLA may record some in command
  buffers, which launch faster.

  Args:
    target: target of the compilation; the result is {} if the rates of its chips are unknown.
    precision: precision of the config, 'bfloat16' or 'float32'.
    costs: result of `parts.costs`.
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
