"""Options of all parts of a run that are found by name: what their annotations refuse."""

import pytest

from clr_jax import augment, methods, models, optim
from clr_jax.core.errors import UserError
from clr_jax.core.options import REQUIRED, check, options_of
from clr_jax.optim import schedules

ALL = [
  (registry.factory, name)
  for registry in (methods, models, augment, optim, schedules)
  for name in registry.names()
]


@pytest.mark.parametrize(('factory', 'name'), ALL)
def test_every_option_has_a_type_that_allows_its_default(factory, name):
  made = factory(name)
  for key, option in options_of(made).items():
    assert option.hint is not str, f'{key}: which strings?'
    if option.default is not REQUIRED:
      check(made, {key: option.default}, what=name, complete=False)


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('arb', {'divisor': 'batches'}, "method.divisor='batches' .* 'batch'.* one of 'batch', 'featu"),
    ('arb', {'shrinkage': 2.0}, 'method.shrinkage=2.0 .* of at most 1'),
    ('arb', {'groups': 0}, 'method.groups=0 .* whole number of at least 1'),
    ('arb', {'swap': False}, 'method.swap=False has no effect unless method.groups is set'),
    ('byol', {'momentum': 1.1}, 'method.momentum=1.1'),
    ('byol', {'final_momentum': -0.1}, 'method.final_momentum=-0.1'),
    ('byol', {'ema_index': 'before'}, "method.ema_index='before' .* one of 'current', 'next'"),
    ('dcl', {'sigma': 0.2}, 'method.sigma=0.2 has no effect unless method.weighted is set'),
    ('debiased', {'tau_plus': -0.1}, 'method.tau_plus=-0.1'),
    ('debiased', {'beta': 1.0}, "debiased has no option 'beta'"),
    ('dino', {'represent': 'teacher'}, "method.represent='teacher' .* 'online', 'target'"),
    ('dynamic_moco', {'first_visit': 'never'}, "method.first_visit='never'"),
    ('hcl', {'tau_plus': 1.0}, 'method.tau_plus=1.0 .* less than 1'),
    ('hcl', {'beta': -1.0}, 'method.beta=-1.0'),
    ('infomin', {'jigsaw_weight': 1.5}, 'method.jigsaw_weight=1.5 .* of at most 1'),
    ('infomin', {'symmetric': True}, "infomin has no option 'symmetric'"),
    ('isogclr', {'temperature_min': 0.0}, 'method.temperature_min=0.0'),
    ('isogclr', {'eta': -0.1}, 'method.eta=-0.1'),
    ('isogclr', {'beta': 0.0}, 'method.beta=0.0 .* of at least'),
    ('isogclr', {'gamma': 0.0}, 'method.gamma=0.0'),
    ('real', {'retrieval': 'nearest'}, "method.retrieval='nearest' .* 'top_p', 'radius', 'top_k'"),
    ('real', {'retrieval': 'radius', 'radius': 0.0}, 'method.radius=0.0'),
    ('real', {'top_p': 0.0}, 'method.top_p=0.0'),
    ('real', {'top_p': 1.5}, 'method.top_p=1.5'),
    ('real', {'retrieval': 'top_k', 'top_k': 0}, 'method.top_k=0'),
    ('real', {'as_published': True}, 'method.as_published=True .* unless method.retrieval=radius'),
    ('real', {'radius': 0.3}, 'method.radius=0.3 has no effect unless method.retrieval=radius'),
    ('real', {'top_k': 3}, 'method.top_k=3 has no effect unless method.retrieval=top_k'),
    ('real', {'retrieval': 'radius', 'top_p': 0.2}, 'method.top_p=0.2 has no effect'),
    ('rpc', {'gamma': -1.0}, 'method.gamma=-1.0'),
    ('simclr', {'temperature': 0.0}, 'method.temperature=0.0'),
    ('simclr', {'temperature': 1e300}, r'method.temperature=1e\+300'),
    ('simclr', {'temperature': float('nan')}, 'method.temperature=nan'),
    ('simclr', {'out_dim': 2**31}, 'method.out_dim=2147483648'),
    ('simclr', {'projector': 'solo_simclrs'}, "did you mean 'solo_simclr'"),
    ('simclr', {'block_size': 0}, 'method.block_size=0'),
    ('sogclr', {'combine': 'max'}, "method.combine='max'"),
    ('sogclr', {'gamma_decay_epochs': 0}, 'method.gamma_decay_epochs=0 .* of at least 1'),
    ('sogclr', {'gamma_decay_epochs': 3}, 'unless method.gamma_schedule=cosine'),
    ('supervised', {'label_smoothing': 1.0}, 'method.label_smoothing=1.0 .* less than 1'),
    ('swav', {'epsilon': 0.0}, 'method.epsilon=0.0'),
    ('swav', {'sinkhorn_iterations': 10**9}, 'method.sinkhorn_iterations=1000000000'),
    ('swav', {'sinkhorn_iterations': 0}, 'method.sinkhorn_iterations=0'),
    ('tcl', {'k1': -1.0}, 'method.k1=-1.0'),
    ('tcl', {'k2': 0.0}, 'method.k2=0.0'),
    ('tico', {'beta': 1.0}, 'method.beta=1.0 .* less than 1'),
    ('w_mse', {'whitening_iters': 0}, 'method.whitening_iters=0'),
  ],
)
def test_options_of_methods(name, options, message):
  with pytest.raises(UserError, match=message):
    check(methods.factory(name), options, what=name, prefix='method.')
