"""Makes the archives of this folder: python -m tests.expected.make

Needs torch, torchvision and timm, which the tests themselves do not. The versions are kept beside
the values: torch 2.13.0, torchvision 0.28.0 and timm 1.0.31, on a CPU.
"""

import json

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torchvision.models import resnet
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from tests.expected import DRAWN, FOLDER, RECTANGLES, images, weights


def save(name, arrays):
  versions = {lib.__name__: np.str_(lib.__version__) for lib in (torch, torchvision, timm)}
  np.savez_compressed(FOLDER / f'{name}.npz', **arrays, **versions)


def resnets():
  """Features [B, F] of torchvision's blocks, and gradients of their squared sum by the images."""
  found = {}
  for name, block, layers in (
    ('basic', resnet.BasicBlock, [1, 1, 1, 1]),
    ('bottleneck', resnet.Bottleneck, [1, 2, 1, 1]),
  ):
    model = resnet.ResNet(block, layers).double().eval()
    model.fc = torch.nn.Identity()
    state = model.state_dict()
    for key, value in state.items():
      if not key.endswith('num_batches_tracked'):
        state[key] = torch.tensor(weights(key, tuple(value.shape)))
    model.load_state_dict(state)
    x = torch.tensor(images((2, 40, 36, 3)) / 255.0).permute(0, 3, 1, 2).requires_grad_()
    h = model(x)
    (h**2).sum().backward()
    found[f'{name}_h'] = h.detach().numpy()
    found[f'{name}_gradient'] = x.grad.permute(0, 2, 3, 1).numpy()
  save('resnet', found)


def vits():
  """Features of timm's ViTs, and gradients of their squared sum by the images and parameters.

  Everything for a small one; for the published sizes the features, the gradient at some pixels, and
  for each parameter the norm of its gradient and its product with `weights`.
  """
  found, shapes = {}, {}
  small = {'img_size': 8, 'patch_size': 4, 'embed_dim': 8, 'depth': 2, 'num_heads': 2}
  for name, options in (('vit_tiny', small), ('vit_tiny', {}), ('vit_small', {}), ('vit_base', {})):
    model = timm.create_model(f'{name}_patch16_224', num_classes=0, **options).double().eval()
    state = {k: torch.tensor(weights(k, tuple(v.shape))) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    size = options.get('img_size', 224)
    x = torch.tensor(images((2, size, size, 3)) / 255.0).permute(0, 3, 1, 2).requires_grad_()
    h = model(x)
    (h**2).sum().backward()
    of_images = x.grad.permute(0, 2, 3, 1).numpy()
    gradients = {k: p.grad.numpy() for k, p in model.named_parameters()}
    if options:
      found |= {'small_h': h.detach().numpy(), 'small_gradient': of_images}
      found |= {f'small/{k}': g for k, g in gradients.items()}
      continue
    shapes[name] = {k: [*v.shape] for k, v in state.items()}
    found |= {f'{name}_h': h.detach().numpy(), f'{name}_gradient': of_images[:, ::31, ::31]}
    found[f'{name}_norms'] = np.array([np.linalg.norm(g) for g in gradients.values()])
    found[f'{name}_products'] = np.array(
      [(g * weights(k, g.shape)).sum() for k, g in gradients.items()]
    )
  (FOLDER / 'timm_names.json').write_text(json.dumps(shapes) + '\n')
  # facebookresearch/dino, vision_transformer.py, interpolate_pos_encoding.
  positions = torch.tensor(weights('pos_embed', (1, 49, 4)))
  found['positions'] = positions.numpy()
  for rows, columns in ((3, 3), (6, 9), (10, 10)):
    resampled = torch.nn.functional.interpolate(
      positions.reshape(1, 7, 7, 4).permute(0, 3, 1, 2),
      scale_factor=((rows + 0.1) / 7, (columns + 0.1) / 7),
      mode='bicubic',
    )
    found[f'positions_{rows}_{columns}'] = resampled.permute(0, 2, 3, 1).reshape(1, -1, 4).numpy()
  save('vit', found)


def names():
  """Names and shapes of torchvision's state dicts, without `fc` and the counters of BatchNorm."""
  found = {}
  for name in ('resnet18', 'resnet34', 'resnet50', 'resnet101'):
    state = getattr(torchvision.models, name)().state_dict()
    found[name] = {k: [*v.shape] for k, v in state.items() if not k.startswith('fc.') and v.ndim}
  (FOLDER / 'torchvision_names.json').write_text(json.dumps(found) + '\n')


def transforms():
  """torchvision on 8-bit images [H, W, 3]: on PIL images where its recipes use them."""
  image = images((19, 23, 3), seed=1)
  pil = Image.fromarray(image)
  tensor = torch.tensor(image).permute(2, 0, 1)
  box = {'top': 3, 'left': 5, 'height': 11, 'width': 14}
  on_pil = {
    'brightness': tv.adjust_brightness(pil, 1.3),
    'contrast': tv.adjust_contrast(pil, 0.6),
    'saturation': tv.adjust_saturation(pil, 1.7),
    'hue': tv.adjust_hue(pil, 0.1),
    'sharpness': tv.adjust_sharpness(pil, 1.8),
    'autocontrast': tv.autocontrast(pil),
    'equalize': tv.equalize(pil),
    'posterize': tv.posterize(pil, 3),
    'solarize': tv.solarize(pil, 128),
    'grayscale': tv.to_grayscale(pil, 3),
    'crop_down': tv.resized_crop(pil, **box, size=[7, 7]),
    'crop_up': tv.resized_crop(pil, **box, size=[32, 32]),
    'crop_bicubic': tv.resized_crop(
      pil, **box, size=[20, 20], interpolation=InterpolationMode.BICUBIC
    ),
  }
  found = {name: np.asarray(picture) for name, picture in on_pil.items()}
  for taps, sigma in ((3, 0.7), (9, 1.9)):
    blurred = tv.gaussian_blur(tensor.double() / 255, [taps, taps], [sigma, sigma])
    found[f'blur_{taps}'] = blurred.permute(1, 2, 0).numpy()
  save('transforms', {'image': image, **found})


def rectangles():
  """torchvision on PIL images of `RECTANGLES`: crops, evaluation, and drawn boxes."""
  torch.manual_seed(0)
  pictures = [Image.fromarray(images((*size, 3), seed=i)) for i, size in enumerate(RECTANGLES)]
  draw = torchvision.transforms.RandomResizedCrop.get_params
  drawn = [draw(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for picture in pictures]
  found = {'box': np.array([[x, y, x + w, y + h] for y, x, h, w in drawn])}
  for method in ('bilinear', 'bicubic'):
    how = InterpolationMode(method)
    made = {
      'down': [tv.resized_crop(p, *b, [7, 9], how) for p, b in zip(pictures, drawn, strict=True)],
      'up': [tv.resized_crop(p, *b, [40, 44], how) for p, b in zip(pictures, drawn, strict=True)],
      'squash': [tv.resize(p, [20, 20], how) for p in pictures],
      'center': [tv.center_crop(tv.resize(p, [20], how), [17]) for p in pictures],
    }
    found |= {f'{name}_{method}': np.stack([*map(np.asarray, x)]) for name, x in made.items()}
  for (height, width), scale in DRAWN.items():
    picture = Image.new('L', (width, height))
    boxes = [draw(picture, list(scale), [3 / 4, 4 / 3]) for _ in range(2000)]
    found[f'drawn_{height}_{width}'] = np.array(boxes, np.int16)  # top, left, height, width
  save('rectangles', found)


def optimizers():
  """Parameters [steps, 6, 5] after each step with fixed gradients."""
  rng = np.random.default_rng(3)
  start, gradients = rng.normal(size=(6, 5)), rng.normal(size=(4, 6, 5))
  makers = {
    'sgd': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    'nesterov': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    'adam': lambda p: torch.optim.Adam(p, 0.01, betas=(0.9, 0.95)),
    'adamw': lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95), weight_decay=0.1),
  }
  found = {'start': start, 'gradients': gradients}
  for name, make in makers.items():
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer, path = make([parameter]), []
    for gradient in gradients:
      parameter.grad = torch.tensor(gradient)
      optimizer.step()
      path.append(parameter.detach().numpy().copy())
    found[name] = np.stack(path)
  save('optimizers', found)


if __name__ == '__main__':
  resnets()
  vits()
  names()
  transforms()
  rectangles()
  optimizers()
