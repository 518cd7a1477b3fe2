"""Schedules at their ends and corners; the golden archives hold the curves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.core.errors import UserError
from clr_jax.core.options import keyword_only
from clr_jax.optim import schedules

RUN = {'peak': 0.5, 'steps_per_epoch': 10, 'total_steps': 200, 'warmup_epochs': 2}
EXTRA = {
  'simclr': {'num_examples': 320, 'batch_size': 32},
  'step_decay': {'milestones': (10, 15)},
}
# value at step 0, at the end of the warm-up (step 20), at the end of the run (step 200)
ENDS = {
  'constant': (0.5, 0.5, 0.5),
  'warmup_cosine': (0.0, 0.5, 0.0),
  'epoch_cosine': (0.5, 0.5 * (1 + np.cos(np.pi * 0.1)) / 2, 0.0),
  'simclr': (0.0, 0.5, 0.5 * (1 + np.cos(np.pi * 180 / 181)) / 2),
  'supcontrast': (0.01, 5e-4 + 0.4995 * (1 + np.cos(np.pi * 0.15)) / 2, 5e-4),
  'tcl': (0.5, 5e-4 + 0.4995 * (1 + np.cos(np.pi * 0.05)) / 2, None),
  'solo': (3e-5, 0.5, 0.0),
  'solo_epoch': (3e-5, 0.5, 0.0),
  'step_decay': (0.5, 0.5, 0.005),
}


@pytest.mark.parametrize('name', ENDS)
def test_ends(name):
  schedule = schedules.make(name, **RUN, **EXTRA.get(name, {}))
  for step, expected in zip((0, 20, 200), ENDS[name], strict=True):
    if expected is not None:
      np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', ENDS)
def test_values_are_finite_floats_for_any_kind_of_step(name, x64):
  schedule = schedules.make(name, **RUN, **EXTRA.get(name, {}))
  steps = np.arange(0, 260, 7)  # past the end too
  array = schedule(steps)
  assert array.dtype == jnp.float64 and array.shape == steps.shape and jnp.isfinite(array).all()
  traced = jax.jit(schedule)
  for i in (0, 5, len(steps) - 1):
    for value in (schedule(int(steps[i])), traced(jnp.int32(steps[i]))):
      assert value.shape == ()
      np.testing.assert_allclose(value, array[i], rtol=1e-13, atol=1e-17)


def test_solo_reaches_the_peak_one_step_early():
  schedule = schedules.solo(1.0, total_steps=50, warmup_steps=5)
  np.testing.assert_allclose(schedule(np.arange(4, 6)), [1.0, 1.0])
  assert float(schedules.solo(1.0, total_steps=50, warmup_steps=1)(0)) == pytest.approx(3e-5)
  assert float(schedules.solo(1.0, total_steps=50, warmup_steps=0)(0)) == 1.0


def test_epoch_forms_are_constant_inside_an_epoch():
  for name in ('epoch_cosine', 'tcl', 'solo_epoch'):
    table = np.asarray(schedules.make(name, **RUN)(np.arange(200))).reshape(20, 10)
    assert (table == table[:, :1]).all()
    assert len(np.unique(table[:, 0])) > 15


def test_step_decay_drops_at_its_milestones():
  schedule = schedules.step_decay(1.0, milestones=(2, 3), steps_per_epoch=5)
  np.testing.assert_allclose(schedule(np.array([9, 10, 14, 15])), [1, 0.1, 0.1, 0.01], rtol=1e-5)


def test_gamma_and_ema():
  gamma = schedules.cosine_gamma(0.9, 4)(np.array([0, 2, 4, 6]))
  np.testing.assert_allclose(gamma, [1.0, 0.95, 0.9, 0.9], rtol=1e-6)
  tau = schedules.ema_cosine(0.99, total_steps=10)
  np.testing.assert_allclose([tau(0), tau(5), tau(10)], [0.99, 0.995, 1.0], rtol=1e-6)


def test_scaled_lr():
  assert schedules.scaled_lr(512, learning_rate=0.3) == pytest.approx(0.6)
  assert schedules.scaled_lr(1024, learning_rate=0.075, scaling='sqrt') == pytest.approx(2.4)
  assert schedules.scaled_lr(512, learning_rate=0.3, scaling='none') == 0.3


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('cosine', {}, 'warmup_cosine, epoch_cosine'),
    ('warmup_cosine', {'ends': 1.0}, "'ends': did you mean 'end'\\? it takes peak, .*, end, start"),
    ('simclr', {}, 'num_examples'),
    ('step_decay', {}, 'milestones'),
    ('step_decay', {'milestones': (9, 4)}, r'milestones=\(9, 4\) is not .* in increasing order'),
    ('step_decay', {'milestones': (4, 4)}, 'without repetitions'),
    ('step_decay', {'milestones': (4, 20)}, 'milestones: 20 has no effect in a run of 20 epochs'),
    ('warmup_cosine', {'warmup_epochs': 30}, 'warmup_epochs=30 exceeds .* in epochs, 20: lower'),
    ('supcontrast', {'warmup_epochs': 30}, 'warmup_epochs=30 exceeds .* in epochs, 20: lower'),
    ('solo_epoch', {'warmup_epochs': -1}, 'warmup_epochs=-1 is not allowed'),
  ],
)
def test_bad_input(name, options, message):
  with pytest.raises(UserError, match=message):
    schedules.make(name, **{**RUN, **options})


def test_a_warm_up_as_long_as_the_run_is_allowed():
  for name in schedules.names():
    needed = {
      'simclr': {'num_examples': 100, 'batch_size': 10},
      'step_decay': {'milestones': (19.9,)},
    }
    schedules.make(name, **{**RUN, 'warmup_epochs': 20, **needed.get(name, {})})


def test_lengths_that_do_not_fit_have_a_unit():
  with pytest.raises(UserError, match=r'warmup_steps=22 must be .* 11 steps: change it'):
    schedules.warmup_cosine(1.0, total_steps=11, warmup_steps=22)


def test_options_are_those_of_the_form_without_the_sizes_of_the_run():
  assert {'start', 'end', 'warmup_epochs'} < set(keyword_only(schedules.factory('solo')))
  assert not {'warmup_steps', 'epochs'} & set(keyword_only(schedules.factory('supcontrast')))
