"""What the features of checkpoints look like: a map, nearest neighbours, views, classes."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from clr_jax.core.errors import UserError
from clr_jax.core.names import check_name
from clr_jax.figures.augmented import draw_views
from clr_jax.figures.classes import draw_classes
from clr_jax.figures.neighbours import draw_neighbours
from clr_jax.figures.networks import open_networks
from clr_jax.figures.points import draw_points
from clr_jax.figures.projection import PROJECTIONS


def figures(
  directories: Sequence[str],
  out: str,
  *,
  projection: str = 'pca',
  num_points: int = 2000,
  num_images: int = 8,
  num_neighbours: int = 8,
  seed: int = 0,
  step: int | None = None,
) -> list[epath.Path]:
  """Draws four pictures of the features of each run's checkpoint, and their numbers beside them.

  FILE-points.png: test features in the plane. FILE-neighbours.png: test images and the training
  images nearest to them. FILE-views.png: what augmentation makes of training images.
  FILE-classes.png: accuracy of kNN by class, and which classes it confuses; of labeled data only.

  Args:
    directories: workdirs of runs; what cannot be opened is left out, and a line on the terminal
      says so.
    out: FILE.png.
    projection: 'pca' or 'tsne'.
    num_points: of the first picture, at most.
    num_images: rows of images in the second and third.
    num_neighbours: of each image.
    seed: chooses the images, and is that of t-SNE and of the augmentation.
    step: of the checkpoints; None = the newest.

  Returns:
    The pictures and CSV files.

  Raises:
    UserError: no checkpoint can be opened, or an option that cannot be.
  """
  check_name(PROJECTIONS, projection, 'projection')
  numbers = {
    'num_points': num_points,
    'num_images': num_images,
    'num_neighbours': num_neighbours,
  }
  for name, value in numbers.items():
    if value < 1:
      raise UserError(f'{name}={value} must be at least 1')
  networks = open_networks(directories, step=step)
  path = epath.Path(out)

  def picture(name: str) -> epath.Path:
    return path.with_name(f'{path.stem}-{name}.png')

  points, near, views, classes = map(picture, ('points', 'neighbours', 'views', 'classes'))
  shown = {'num_images': num_images, 'seed': seed}
  written = [
    points,
    draw_points(networks, str(points), projection=projection, num_points=num_points, seed=seed),
    near,
    draw_neighbours(networks, str(near), num_neighbours=num_neighbours, **shown),
    views,
    draw_views(networks, str(views), **shown),
  ]
  labeled = []
  for network in networks:
    if network.subject.sets.labeled:
      labeled.append(network)
    else:
      missing = 'is no test set' if network.subject.sets.test is None else 'are no labels'
      print(f'{network.name} is not in {classes.name}: there {missing}', flush=True)
  if labeled:
    written += [classes, *draw_classes(labeled, str(classes))]
  return written
