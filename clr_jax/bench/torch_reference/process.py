"""PyTorch's training in a process of its own, as its users start it.

In this process it would have the settings of the C library's malloc that `clr_jax` makes at its
start, which are worth a sixth of its step on a CPU.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

import flax.linen as nn
import numpy as np

from clr_jax.core.config_tree import Config
from clr_jax.core.errors import UserError
from clr_jax.core.types import RunInfo

WARM_UP = 5  # steps; torch.compile records CUDA graphs in the third
TRIED = 3  # steps timed three times with each memory layout


@dataclasses.dataclass(frozen=True)
class Task:
  """Everything that PyTorch needs; see `training.Training`. `device`: 'cpu' or 'cuda'."""

  device: str
  config: Config
  like: nn.Module
  info: RunInfo
  images: np.ndarray
  labels: np.ndarray | None
  learning_rate: float
  compile_mode: str


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about PyTorch's training that do not change.

  Attributes:
    version: version of PyTorch.
    device_name: its name of the device.
    threads: number of threads of its operations on the CPU.
    view_steps: readable steps of a view.
    parameters: number of parameters of the backbone.
    warm_up: seconds of the first steps of the chosen layout.
    layouts: seconds of a step by memory layout.
  """

  version: str
  device_name: str
  threads: int
  view_steps: list[str]
  parameters: int
  warm_up: float
  layouts: dict[str, float]


class Peer:
  """PyTorch's training in the faster of its memory layouts, in a child process.

  Use it as a context, whose end stops the process.

  Raises:
    UserError: PyTorch sees no GPU where one is asked for, or its process ended.
  """

  facts: Facts

  def __init__(self, task: Task):
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
    self._process.start()
    theirs.close()
    self.facts = self._ask(task)

  def __enter__(self) -> Peer:
    return self

  def __exit__(self, *exception: object) -> None:
    self._connection.close()  # which ends the loop of the process
    self._process.join(timeout=5)
    self._process.terminate()

  def run(self, steps: int) -> float:
    """Runs training steps and returns the seconds until all work is done."""
    return self._ask(steps)

  def peak_bytes(self) -> int | None:
    """Peak memory of tensors since the layout was chosen, in bytes; None on CPUs."""
    return self._ask(None)

  def _ask(self, question: Task | int | None) -> Any:
    try:
      self._connection.send(question)
      error, answer = self._connection.recv()
    except (EOFError, OSError):
      self._process.join(timeout=5)
      raise UserError(
        f'the process of PyTorch ended with exit code {self._process.exitcode}: see its message '
        f'above; a negative code is the number of a signal, and 9 is often a lack of memory'
      ) from None
    if error is not None:
      raise error
    return answer


def _serve(connection: Connection) -> None:
  """Answers the questions of `Peer`, each by (error, answer)."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
  try:
    training, facts = _prepare(connection.recv())
    connection.send((None, facts))
    while True:
      steps = connection.recv()
      connection.send((None, training.peak_bytes() if steps is None else training.run(steps)))
  except UserError as error:
    connection.send((error, None))
  except EOFError:  # the parent has ended, or needs no more
    return


def _prepare(task: Task) -> tuple[Any, Facts]:
  """Returns (training in the faster layout, facts)."""
  # PyTorch is optional (extra `peer`), and this process has not imported it yet.
  import torch  # pyright: ignore[reportMissingImports]

  from clr_jax.bench.torch_reference import training  # imports PyTorch

  if task.device == 'cuda' and not torch.cuda.is_available():
    raise UserError('PyTorch sees no GPU: install it with CUDA, or set JAX_PLATFORMS=cpu')
  images = torch.tensor(task.images, device=task.device)
  labels = None if task.labels is None else torch.tensor(task.labels, device=task.device)
  peers = {
    layout: training.Training(
      task.config,
      task.like,
      task.info,
      images,
      labels,
      learning_rate=task.learning_rate,
      layout=layout,
      compile_mode=task.compile_mode,
    )
    for layout in training.LAYOUTS
  }
  warm_up = {layout: peer.run(WARM_UP) for layout, peer in peers.items()}
  # Alternate the layouts; the minimum is the time with the least disturbance.
  rounds = [{k: peer.run(TRIED) / TRIED for k, peer in peers.items()} for _ in range(3)]
  layouts = {layout: min(r[layout] for r in rounds) for layout in peers}
  fastest = min(layouts, key=layouts.__getitem__)
  chosen = peers[fastest]
  del peers
  chosen.forget_peak()
  return chosen, Facts(
    version=torch.__version__,
    device_name=chosen.device_name(),
    threads=chosen.threads(),
    view_steps=chosen.view_steps,
    parameters=sum(p.numel() for p in chosen.backbone.parameters()),
    warm_up=warm_up[fastest],
    layouts=layouts,
  )
