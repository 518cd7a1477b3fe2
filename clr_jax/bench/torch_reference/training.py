"""The training loop of the peer: views, network, loss, optimizer, without logs and evaluation."""

from __future__ import annotations

import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from clr_jax.augment import policies
from clr_jax.bench.torch_reference import losses, network, optimizers, views
from clr_jax.core.config_tree import Config, to_dict
from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.core.types import RunInfo
from clr_jax.models import heads
from clr_jax.models.resnet import ResNet


class Training:
  """The steps of a config in PyTorch, with what makes them fast: channels last, TF32 for float32 on
  GPUs as in JAX, cuDNN's search for algorithms, fused optimizers, no synchronisation with the host.

  The images lie on the device. The learning rate is constant; there is no online probe.

  Args:
    config: that `clr_jax.bench.torch_reference.check` accepts.
    like: the backbone that JAX trains.
    info: sizes of the run.
    images: uint8 [N, H, W, C], all of the training set.
    learning_rate: of all steps.
    device: 'cpu' or 'cuda'.
    compile_mode: 'off', or the mode of `torch.compile`.

  Raises:
    UserError: PyTorch has no such device.
  """

  def __init__(
    self,
    config: Config,
    like: ResNet,
    info: RunInfo,
    images: Any,
    *,
    learning_rate: float,
    device: str,
    compile_mode: str = 'off',
  ):
    if device == 'cuda' and not torch.cuda.is_available():
      raise UserError('PyTorch sees no GPU: install it with CUDA, or set JAX_PLATFORMS=cpu')
    self.device = torch.device(device)
    torch.backends.cudnn.benchmark = True
    if device == 'cuda':
      torch.set_float32_matmul_precision('high')
    torch.manual_seed(config.seed)
    self._method, self._info = to_dict(config.method), info
    self._bfloat16 = config.precision == 'bfloat16'
    options = {
      **{k: p.default for k, p in keyword_only(policies.factory(config.augment.name)).items()},
      **to_dict(config.augment),
    }
    self._view, self.view_steps = views.make(config.augment.name, options)
    backbone = network.ResNet(like, images.shape[-1])
    method = config.method
    head = heads.make(method.projector, hidden_dim=method.hidden_dim, out_dim=method.out_dim)
    head = network.head(head, like.num_features)
    backbone.float().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    self.backbone = backbone.to(self.device)
    self.head = head.to(self.device)
    trained = [*self.backbone.parameters(), *self.head.parameters()]
    trained = [p for p in trained if p.requires_grad]
    self._optimizer = optimizers.build(trained, to_dict(config.optimizer), learning_rate)
    self._images = torch.tensor(images, device=self.device)
    self._u = torch.zeros(info.num_examples, device=self.device)
    self._order, self._position = torch.empty(0, dtype=torch.int64), 0
    self._compute = self._loss
    if compile_mode != 'off':
      self._compute = torch.compile(self._loss, mode=compile_mode)

  def run(self, steps: int) -> float:
    """Seconds of so many training steps, until all of their work is done."""
    self._wait()
    start = time.perf_counter()
    for _ in range(steps):
      index = self._next()
      loss, new_u = self._compute(self._images[index], self._u[index])
      loss.backward()
      if new_u is not None:
        self._u[index] = new_u
      self._optimizer.step()
      self._optimizer.zero_grad()
    self._wait()
    return time.perf_counter() - start

  def peak_bytes(self) -> int | None:
    """Most memory that tensors took so far; None on CPUs."""
    return torch.cuda.max_memory_allocated() if self.device.type == 'cuda' else None

  def threads(self) -> int:
    """Of PyTorch's operations on the CPU."""
    return torch.get_num_threads()

  def device_name(self) -> str:
    """As PyTorch names it."""
    return torch.cuda.get_device_name() if self.device.type == 'cuda' else 'cpu'

  def _wait(self) -> None:
    if self.device.type == 'cuda':
      torch.cuda.synchronize()

  def _next(self) -> torch.Tensor:
    """Rows of the next batch, of a new permutation each epoch, on the device."""
    if self._position + self._info.batch_size > len(self._order):
      self._order = torch.randperm(self._info.num_examples, device=self.device)
      self._position = 0
    self._position += self._info.batch_size
    return self._order[self._position - self._info.batch_size : self._position]

  def _loss(self, images: torch.Tensor, u: torch.Tensor):
    """(loss, new u or None) of uint8 images [B, H, W, C]."""
    images = images.permute(0, 3, 1, 2).float() / 255
    made = [self._view(images) for _ in range(self._info.num_views)]
    method, size = self._method, len(images)
    if method['per_view_bn']:
      z = torch.stack([self.head(self._features(view)) for view in made], 1)
    else:
      joint = self.head(self._features(torch.cat(made)))
      z = joint.view(len(made), size, -1).transpose(0, 1)
    if method['name'] == 'simclr':
      loss = losses.ntxent(z, temperature=method['temperature'])
      return method['loss_scale'] * loss.mean(), None
    hyper = {key: method[key] for key in ('temperature', 'gamma', 'eps', 'first_visit')}
    loss, new_u = losses.sogclr(z, u, **hyper)
    return loss.mean(), new_u

  def _features(self, images: torch.Tensor) -> torch.Tensor:
    """The backbone in the config's precision, what follows in float32, as in `clr_jax`."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
      return self.backbone(images)
