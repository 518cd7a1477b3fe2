"""Constants of severities 1 to 5 for each family of corruptions.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations (ICLR 2019, arXiv:1903.12261): the constants of the code that made CIFAR-10-C
(make_cifar_c.py) and ImageNet-C (make_imagenet_c.py), https://github.com/hendrycks/robustness.
Each entry holds, per severity, the arguments of the function with the family's name.

The source's severities do not always move pixels further: of CIFAR-10-C, saturate first takes
color away (1, 2) and then adds it (3 to 5), spatter is water and then mud (4, 5), the elastic
transform moves less and less but ever more locally, and glass_blur stays level between steps.
"""

from __future__ import annotations

import numpy as np

# Smallest side of images with the constants of ImageNet-C, which were chosen for 224x224 pixels;
# smaller images use those of CIFAR-10-C, chosen for 32x32.
IMAGENET_SIDE = 64

CIFAR = {
  'gaussian_noise': ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
  'shot_noise': ((500,), (250,), (100,), (75,), (50,)),
  'impulse_noise': ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
  'speckle_noise': ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
  'defocus_blur': ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
  'glass_blur': ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
  'motion_blur': ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
  'zoom_blur': ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
  'gaussian_blur': ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
  'fog': ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
  'snow': (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
  ),
  'spatter': (
    (0.62, 0.1, 0.7, 0.7, 0.5, False),
    (0.65, 0.1, 0.8, 0.7, 0.5, False),
    (0.65, 0.3, 1, 0.69, 0.5, False),
    (0.65, 0.1, 0.7, 0.69, 0.6, True),
    (0.65, 0.1, 0.5, 0.68, 0.6, True),
  ),
  'brightness': ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
  'contrast': ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
  'saturate': ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
  # Fractions of the image's side (32 in the source).
  'elastic_transform': (
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
  ),
  'pixelate': ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
  'jpeg_compression': ((80,), (65,), (58,), (50,), (40,)),
}

IMAGENET = {
  'gaussian_noise': ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
  'shot_noise': ((60,), (25,), (12,), (5,), (3,)),
  'impulse_noise': ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
  'speckle_noise': ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
  'defocus_blur': ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
  'glass_blur': ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
  'motion_blur': ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
  'zoom_blur': ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
  'gaussian_blur': ((1,), (2,), (3,), (4,), (6,)),
  'fog': ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
  'snow': (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
  ),
  'spatter': (
    (0.65, 0.3, 4, 0.69, 0.6, False),
    (0.65, 0.3, 3, 0.68, 0.6, False),
    (0.65, 0.3, 2, 0.68, 0.5, False),
    (0.65, 0.3, 1, 0.65, 1.5, True),
    (0.67, 0.4, 1, 0.65, 1.5, True),
  ),
  'brightness': ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
  'contrast': ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
  'saturate': ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
  # The source multiplies by 244 for a side of 224; kept, because the published images have it.
  'elastic_transform': tuple(
    tuple(244 / 224 * np.array(row))
    for row in (
      (2, 0.7, 0.1),
      (2, 0.08, 0.2),
      (0.05, 0.01, 0.02),
      (0.07, 0.01, 0.02),
      (0.12, 0.01, 0.02),
    )
  ),
  'pixelate': ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
  'jpeg_compression': ((25,), (18,), (15,), (10,), (7,)),
}


def constants(name: str, severity: int, side: int) -> tuple:
  """Arguments of family `name` at `severity` for images whose shorter side is `side`."""
  return (IMAGENET if side >= IMAGENET_SIDE else CIFAR)[name][severity - 1]
