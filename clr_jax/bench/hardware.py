"""Peak FLOP/s of accelerators, for model FLOP/s utilization."""

from __future__ import annotations

# (prefix of JAX's device_kind, dense bfloat16 FLOP/s, dense FLOP/s of float32 arrays) of one JAX
# device; the first match counts. By JAX's default precision, float32 arrays are multiplied as TF32
# on NVIDIA since A100 and as bfloat16 on TPU. NVIDIA's data sheets give numbers with sparsity:
# these are half of them.
_PEAKS: tuple[tuple[str, float | None, float], ...] = (
  # https://www.nvidia.com/en-us/data-center/h200/
  ('NVIDIA H200 NVL', 835.5e12, 417.5e12),
  ('NVIDIA H200', 989.5e12, 494.5e12),
  # https://www.nvidia.com/en-us/data-center/h100/ and, for PCIe, the H100 PCIe product brief
  ('NVIDIA H100 NVL', 835.5e12, 417.5e12),
  ('NVIDIA H100 PCIe', 756e12, 378e12),
  ('NVIDIA H100', 989.5e12, 494.5e12),
  # https://www.nvidia.com/en-us/data-center/a100/
  ('NVIDIA A100', 312e12, 156e12),
  # https://www.nvidia.com/en-us/data-center/l4/
  ('NVIDIA L4', 121e12, 60e12),
  # https://www.nvidia.com/en-us/data-center/v100/ (no bfloat16; float32 without tensor cores)
  ('Tesla V100-SXM2', None, 15.7e12),
  ('Tesla V100-PCIE', None, 14e12),
  # https://cloud.google.com/tpu/docs/v6e, v5e, v5p, v4, v3; a v3 chip is two JAX devices
  ('TPU v6 lite', 918e12, 918e12),
  ('TPU v6e', 918e12, 918e12),
  ('TPU v5 lite', 197e12, 197e12),
  ('TPU v5e', 197e12, 197e12),
  ('TPU v5p', 459e12, 459e12),
  ('TPU v5', 459e12, 459e12),
  ('TPU v4', 275e12, 275e12),
  ('TPU v3', 61.5e12, 61.5e12),
)

# Likewise, of products of float32 with precision='highest': on NVIDIA outside the tensor cores, on
# TPU six products of bfloat16 (https://docs.jax.dev/en/latest/jax.lax.html, DotAlgorithmPreset).
_EXACT_PEAKS: tuple[tuple[str, float], ...] = (
  ('NVIDIA H200 NVL', 60e12),
  ('NVIDIA H200', 67e12),
  ('NVIDIA H100 NVL', 60e12),
  ('NVIDIA H100 PCIe', 51e12),
  ('NVIDIA H100', 67e12),
  ('NVIDIA A100', 19.5e12),
)
_TPU_PASSES = 6


def peak(device_kind: str, precision: str) -> float | None:
  """Dense peak FLOP/s of one JAX device in 'bfloat16' or 'float32'; None if unknown."""
  for start, bfloat16, float32 in _PEAKS:
    if _is(device_kind, start):
      return bfloat16 if precision == 'bfloat16' else float32
  return None


def exact_peak(device_kind: str) -> float | None:
  """Peak FLOP/s of one JAX device with precision='highest' on float32; None if unknown."""
  bfloat16 = peak(device_kind, 'bfloat16')
  if device_kind.startswith('TPU'):
    return bfloat16 and bfloat16 / _TPU_PASSES
  return next((flops for start, flops in _EXACT_PEAKS if _is(device_kind, start)), None)


def _is(device_kind: str, start: str) -> bool:
  # 'NVIDIA L4' must not match the L40.
  return device_kind == start or device_kind.startswith((f'{start} ', f'{start}-'))
