"""Projectors, predictors and prototype layers of the published codes (archive c_heads)."""

import functools
import re

import jax
import jax.numpy as jnp

from clr_jax.models import heads

# head of the archive -> recipe, and for those that end in prototypes their layer.
RECIPES = {
  'simsiam_projector': 'simsiam_projector',
  'simsiam_predictor': 'simsiam_predictor',
  'mocov3_projector_resnet': 'mocov3_projector',
  'mocov3_predictor_resnet': 'mocov3_predictor',
  'dino_head': 'dino',
  'dino_head_bn': 'dino_bn',
  'swav_head': 'byol',
  'vicreg_projector': 'vicreg',
  'byol_projector': 'byol',
  'simclr_projector': 'solo_simclr',
  'nnclr_projector': 'nnclr_projector',
}
PROTOTYPES = {
  'dino_head': ('last_layer.weight_v', True),
  'dino_head_bn': ('last_layer.weight_v', True),
  'swav_head': ('prototypes.weight', False),
}


def layers(case, name):
  """torch layer '...{position}' of an MLP -> our 'linear{i}' or 'norm{i}'."""
  pattern = re.compile(rf'{name}\.(?:param|buffer_after)\.(.*\d)\.(\w+)')
  is_linear = {}
  for key, value in case.items():
    if match := pattern.fullmatch(key):
      layer, leaf = match.groups()
      is_linear[layer] = is_linear.get(layer, False) or (leaf == 'weight' and value.ndim == 2)
  names, linears = {}, 0
  for layer in sorted(is_linear, key=lambda s: int(s.rpartition('.')[2])):
    linears += is_linear[layer]
    names[layer] = f'linear{linears - 1}' if is_linear[layer] else f'norm{linears - 1}'
  return names


def leaf_name(layer, leaf):
  if leaf == 'bias':
    return leaf
  return 'kernel' if layer.startswith('linear') else 'scale'


def tree(case, prefix, names):
  """Parameters (or gradients) of an MLP in our naming and layout."""
  result = {}
  for layer, ours in names.items():
    for leaf in ('weight', 'bias'):
      if (value := case.get(f'{prefix}.{layer}.{leaf}')) is not None:
        result.setdefault(ours, {})[leaf_name(ours, leaf)] = value.T
  return result


def check_head(case, close, name):
  names = layers(case, name)
  x, cotangent = case[f'{name}.x'], case[f'{name}.cotangent']
  params = {'mlp': tree(case, f'{name}.param', names)}
  grads = {'mlp': tree(case, f'{name}.grad', names)}
  linears = [k for k in sorted(params['mlp']) if k.startswith('linear')]
  widths = [params['mlp'][k]['kernel'].shape[1] for k in linears]
  mlp = heads.make(RECIPES[name], hidden_dim=widths[0], out_dim=widths[-1])
  if name == 'simsiam_projector':  # the frozen bias, visible only at inference after one step
    mlp = mlp.clone(last_bias=True)
  assert [*mlp.hidden_dims, mlp.out_dim] == widths
  prototypes = None
  if name in PROTOTYPES:
    key, weight_norm = PROTOTYPES[name]
    params['prototypes'] = {'weight': case[f'{name}.param.{key}']}
    grads['prototypes'] = {'weight': case[f'{name}.grad.{key}']}
    prototypes = heads.Prototypes(num=cotangent.shape[1], weight_norm=weight_norm)

  shapes = jax.eval_shape(functools.partial(mlp.init, train=False), jax.random.key(0), x)
  # Ones and zeros, in the precision of the case.
  stats = jax.tree_util.tree_map_with_path(
    lambda path, v: jnp.full(v.shape, path[-1].key == 'var', x.dtype), shapes.get('batch_stats', {})
  )

  def forward(params, stats, x, train):
    variables = {'params': params['mlp'], 'batch_stats': stats}
    y, new = mlp.apply(variables, x, train=train, mutable=['batch_stats'])
    if prototypes is not None:
      y = prototypes.apply({'params': params['prototypes']}, y, train=train)
    return y, new.get('batch_stats', {})

  @jax.jit
  def run(params, stats, x):
    y, vjp, new = jax.vjp(lambda p, x: forward(p, stats, x, True), params, x, has_aux=True)
    return y, new, *vjp(jnp.asarray(cotangent)), forward(params, new, x, False)[0]

  y, new, grad_params, grad_x, y_eval = run(params, stats, x)
  close(y, case[f'{name}.y_train'], f'{name} training output')
  close(y_eval, case[f'{name}.y_eval_after'], f'{name} inference output')
  close(grad_x, case[f'{name}.grad_x'], f'{name} gradient of x')
  assert jax.tree.structure(grad_params) == jax.tree.structure(grads), name
  scale = max(abs(g).max() for g in jax.tree.leaves(grads['mlp']))
  for path, expected in jax.tree_util.tree_leaves_with_path(grads):
    what = f'{name} gradient of {jax.tree_util.keystr(path)}'
    actual = functools.reduce(lambda t, k: t[k.key], path, grad_params)
    if abs(expected).max() < 1e-9 * scale:  # a bias before BatchNorm: only rounding is left
      assert abs(actual).max() <= (1e-9 if x.dtype == 'float64' else 1e-4) * scale, what
    else:
      close(actual, expected, what)
  for layer, ours in names.items():
    if ours in new:
      for stat in ('mean', 'var'):
        expected = case[f'{name}.buffer_after.{layer}.running_{stat}']
        close(new[ours][stat], expected, f'{name} running {stat} of {ours}')


def c_heads(case, close):
  found = {k.partition('.')[0] for k in case if '.' in k}
  assert found == set(RECIPES)
  for name in sorted(found):
    check_head(case, close, name)
