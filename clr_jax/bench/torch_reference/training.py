"""Training loop in PyTorch: views, network, loss, optimizer, without logs and evaluation."""

from __future__ import annotations

import gc
import time

import flax.linen as nn
import torch  # pyright: ignore[reportMissingImports]

from clr_jax.bench.torch_reference import backbones, methods, optimizers, views
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.types import RunInfo

LAYOUTS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}


class Training:
  """Training steps of a config in PyTorch, optimized for speed: TF32 for float32 on GPUs as in JAX,
  cuDNN's search for algorithms, fused optimizers, joint averages of all parameters, on GPUs joint
  views of a policy, and no synchronization with the host.

  The images are on the device. The learning rate is constant; there is no online probe.

  Args:
    config: a config that `clr_jax.bench.torch_reference.check` accepts.
    like: the backbone that JAX trains.
    info: facts about the run.
    images: uint8 [N, H, W, C], the whole training set, on the training device.
    labels: [N] on the same device, or None.
    learning_rate: learning rate of all steps.
    layout: memory layout of images and convolutions, a key of LAYOUTS.
    compile_mode: 'off', or a mode of `torch.compile`.

  Attributes:
    method: a method of `clr_jax.bench.torch_reference.methods`.
    backbone: backbone of the method.
    view_steps: readable steps of a view.
  """

  def __init__(
    self,
    config: Config,
    like: nn.Module,
    info: RunInfo,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    learning_rate: float,
    layout: str = 'channels_last',
    compile_mode: str = 'off',
  ):
    self.device = images.device
    torch.backends.cudnn.benchmark = True
    if images.is_cuda:
      torch.set_float32_matmul_precision('high')
    torch.manual_seed(config.seed)
    self._info = info
    self._views, self.view_steps = views.make(
      to_dict(config.augment), info.num_views, together=images.is_cuda
    )
    self.backbone = backbones.make(like, images.shape[-1], config.augment.size).float()
    options = to_dict(config.method)
    parts = methods.Parts(self.backbone, options, info, config.precision == 'bfloat16')
    self.method = methods.METHODS[options['name']](parts)
    self.method.to(self.device, memory_format=LAYOUTS[layout])
    for module in self.method.modules():
      if isinstance(module, methods.Encoder):
        module.layout = LAYOUTS[layout]
    trained = [p for p in self.method.parameters() if p.requires_grad]
    self._optimizer = optimizers.build(trained, to_dict(config.optimizer), learning_rate)
    self._images, self._labels = images, labels
    self._order, self._position = torch.empty(0, dtype=torch.int64), 0
    self._compute = self.loss
    if compile_mode != 'off':
      self._compute = torch.compile(self.loss, mode=compile_mode)

  def run(self, steps: int) -> float:
    """Runs training steps and returns the seconds until all work is done."""
    self._wait()
    start = time.perf_counter()
    for _ in range(steps):
      index = self._next()
      labels = None if self._labels is None else self._labels[index]
      loss, carry = self._compute(self._images[index], index, labels)
      loss.backward()
      self._optimizer.step()
      self._optimizer.zero_grad()
      self.method.after_step(index, carry)
    self._wait()
    return time.perf_counter() - start

  def loss(
    self, images: torch.Tensor, index: torch.Tensor, labels: torch.Tensor | None
  ) -> tuple[torch.Tensor, methods.Carry]:
    """Returns (loss, carry) of uint8 images [B, H, W, C], rows `index` of the data."""
    return self.method(self._views(images.permute(0, 3, 1, 2).float() / 255), index, labels)

  def peak_bytes(self) -> int | None:
    """Peak memory of tensors in bytes; None on CPUs."""
    return torch.cuda.max_memory_allocated() if self.device.type == 'cuda' else None

  def forget_peak(self) -> None:
    """Resets `peak_bytes` after freeing unreferenced trainings."""
    if self.device.type == 'cuda':
      gc.collect()
      torch.cuda.reset_peak_memory_stats()

  def threads(self) -> int:
    """Number of threads of PyTorch's operations on the CPU."""
    return torch.get_num_threads()

  def device_name(self) -> str:
    """PyTorch's name of the device."""
    return torch.cuda.get_device_name() if self.device.type == 'cuda' else 'cpu'

  def _wait(self) -> None:
    if self.device.type == 'cuda':
      torch.cuda.synchronize()

  def _next(self) -> torch.Tensor:
    """Rows of the next batch on the device, from a new permutation each epoch."""
    if self._position + self._info.batch_size > len(self._order):
      self._order = torch.randperm(self._info.num_examples, device=self.device)
      self._position = 0
    self._position += self._info.batch_size
    return self._order[self._position - self._info.batch_size : self._position]
