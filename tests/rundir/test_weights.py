"""The weights of another run, and the network that is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.rundir.weights import restore_network, restore_weights
from tests.rundir.states import abstract, assert_same, make_state, raw, saved, truncate

# Reading a damaged checkpoint, Orbax leaves its other reads behind: they find their loop closed.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def test_restore_weights_takes_what_fits(tmp_path):
  source = saved(tmp_path, (1, 2))
  into = make_state(seed=5)
  params = {
    'backbone': into.params['backbone'],
    'projector': {'kernel': jnp.zeros((4, 3))},
    'probe': {'bias': jnp.zeros(2)},
    'nothing': {},
  }
  new_params, new_state, report = restore_weights(tmp_path, params, into.state)
  assert_same(new_params['backbone'], source.params['backbone'])
  assert_same(new_params['probe'], params['probe'])
  assert_same(new_params['projector'], params['projector'])
  assert new_params['nothing'] == {}
  assert new_params['backbone']['kernel'].sharding == into.params['backbone']['kernel'].sharding
  assert_same(new_state['batch_stats'], source.state['batch_stats'])
  assert new_state['per_example'] is into.state['per_example']
  assert set(report.taken) == {
    'params/backbone/kernel',
    'params/backbone/scale',
    'state/batch_stats/backbone/mean',
  }
  assert set(report.kept) == {'params/projector/kernel', 'params/probe/bias'}
  assert report.unused == ('params/projector/kernel',)
  told = '3 arrays taken; initialized as new: projector (1 of another shape), probe (1 not there)'
  assert str(report) == f'weights from {tmp_path}, step 2: {told}'
  with pytest.raises(UserError, match='no weights in common'):
    restore_weights(tmp_path, {'other': {'w': jnp.ones(3)}}, {})
  with pytest.raises(UserError, match='no checkpoints'):
    restore_weights(tmp_path / 'nowhere', params, {})


@pytest.mark.parametrize('width', [3, 8])
def test_restore_weights_of_another_backbone_are_refused(tmp_path, width):
  saved(tmp_path, (1,))
  into = make_state(width=width)
  with pytest.raises(UserError, match='another backbone') as refused:
    restore_weights(tmp_path, into.params, into.state)
  assert f'backbone/kernel is [3, 4] there and [3, {width}] here' in str(refused.value)


def test_restore_weights_casts_to_the_new_dtype_and_passes_over_damage(tmp_path, capsys):
  source = saved(tmp_path, (1, 2))
  truncate(tmp_path / 'checkpoints' / '2')
  params = {'backbone': {'kernel': jnp.zeros((3, 4), jnp.bfloat16)}}
  new_params, _, report = restore_weights(tmp_path, params, {})
  wanted = source.params['backbone']['kernel'].astype(jnp.bfloat16)
  np.testing.assert_array_equal(raw(new_params['backbone']['kernel']), raw(wanted))
  assert report.unused == (
    'params/backbone/scale',
    'params/projector/kernel',
    'state/batch_stats/backbone/mean',
  )
  assert 'damaged checkpoint 2' in capsys.readouterr().out


def test_restore_network_leaves_tables_optimizer_and_probe_alone(tmp_path, capsys):
  source = saved(tmp_path, (1, 2, 3), keep_last=3)
  other = abstract(make_state(seed=5))
  params = {'backbone': other.params['backbone'], 'nothing': {}}
  state = {
    **other.state,
    'per_example': {'log_u': jax.ShapeDtypeStruct((2048,), jnp.float32)},  # other training data
    'target': {},
  }
  other = other.replace(params=params, state=state, opt_state=())
  network = restore_network(tmp_path, other)
  assert network.step == 3
  assert_same(network.params, {'backbone': source.params['backbone'], 'nothing': {}})
  assert_same(network.state, {'batch_stats': source.state['batch_stats'], 'target': {}})
  kernel = network.params['backbone']['kernel']
  assert kernel.sharding.is_equivalent_to(params['backbone']['kernel'].sharding, kernel.ndim)
  assert restore_network(tmp_path, other, 1).step == 1
  truncate(tmp_path / 'checkpoints' / '3')
  assert restore_network(tmp_path, other).step == 2
  assert 'damaged checkpoint 3' in capsys.readouterr().out


def test_restore_network_refuses_another_model(tmp_path):
  saved(tmp_path, (1,))
  wider = abstract(make_state(width=5))
  with pytest.raises(UserError, match=r'another method or model .*\[3, 4\] there') as refused:
    restore_network(tmp_path, wider)
  assert str(tmp_path) in str(refused.value) and '\n' not in str(refused.value)
  more = abstract(make_state())
  more = more.replace(params={**more.params, 'predictor': more.params['projector']})
  with pytest.raises(UserError, match='predictor/kernel is absent there'):
    restore_network(tmp_path, more)
  with pytest.raises(UserError, match=r'no checkpoint 7: there are \[1\]'):
    restore_network(tmp_path, abstract(make_state()), 7)
