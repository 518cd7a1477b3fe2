"""PyTorch's process of clr-jax bench --peer."""

import jax
import pytest

from clr_jax.core.errors import UserError
from clr_jax.experiment.build import build_experiment
from clr_jax.experiment.config_files import load

pytest.importorskip('torch')


@pytest.mark.weekly
def test_the_process_of_pytorch_ends(request, monkeypatch):
  from clr_jax.bench.torch_reference import compare, process

  monkeypatch.chdir(request.config.rootpath)
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  experiment = build_experiment(load('tests/tiny.py:sogclr'), devices=jax.devices()[:1])
  with process.Peer(compare.task(experiment, 'cpu', 'off')) as peer:
    assert peer.facts.threads == 1 and peer.run(1) > 0 and peer.peak_bytes() is None
    peer._process.kill()
    with pytest.raises(UserError, match='PyTorch ended with exit code -9: '):
      peer.run(1)
  with pytest.raises(UserError, match='PyTorch sees no GPU: install'):
    process.Peer(compare.task(experiment, 'cuda', 'off'))
