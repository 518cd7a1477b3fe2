"""Times of a step from peak rates of the hardware: a lower bound, and kernel by kernel."""

from __future__ import annotations

from clr_jax.bench import hardware
from clr_jax.bench.hlo import Module
from clr_jax.bench.plan.parts import Costs, kernel_costs
from clr_jax.bench.plan.targets import LAUNCH_SECONDS, Target

# Parts of the estimated time of a step, by platform.
ESTIMATES = {
  'cuda': 'kernels one after another, each at the peak of products, memory or launches',
  'tpu': 'the cycles that the compiler expects, without communication',
}


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


def one_after_another(target: Target, precision: str, module: Module, *, sent: int) -> float | None:
  """Seconds of a step on GPUs whose kernels run one after another, each at the peak of one rate.

  A kernel takes the longest of its products, the bytes that it accesses and a launch. Closer than
  the bound of `seconds`, but real kernels do not reach peak rates either. None on other hardware
  and if the rates of the target's chips are unknown.

  Args:
    target, precision, sent: see `seconds`.
    module: the compiled step.
  """
  chip = target.chip
  peak = hardware.peak(chip.kind, precision)
  if peak is None or chip.bandwidth is None or chip.interconnect is None:
    return None
  if chip.platform != 'cuda':
    return None
  total = sent / chip.interconnect
  for _, counts, times in kernel_costs(module):
    rates = counts['product_flops'] / peak, counts['bytes'] / chip.bandwidth
    total += times * max(*rates, counts['kernels'] * LAUNCH_SECONDS)
  return total


def shares(target: Target, precision: str, costs: Costs) -> dict[str, float]:
  """Share of the step's time of each part; {} if the rates of the target's chips are unknown.

  On TPUs of the compiler's cycles. Elsewhere of the longer one of two times: products at the peak,
  bytes accessed at the memory's rate.

  Args:
    target, precision, costs: see `seconds`.
  """
  chip = target.chip
  peak = hardware.peak(chip.kind, precision)
  if peak is None or chip.bandwidth is None:
    return {}
  bandwidth = chip.bandwidth
  times = {part: float(row['cycles']) for part, row in costs.items()}
  if not any(times.values()):
    times = {
      part: max(row['product_flops'] / peak, row['bytes'] / bandwidth)
      for part, row in costs.items()
    }
  total = sum(times.values())
  return {part: time / total for part, time in times.items()} if total else {}
