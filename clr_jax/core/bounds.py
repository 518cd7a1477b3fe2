"""Types of options with the bounds that many of them share; words for `core.options`.

An upper end is no limit of taste: a larger number overflows float32 or int32 somewhere, or can only
be a mistake.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from clr_jax.core.annotations import INCREASING

Probability = Annotated[float, Ge(0), Le(1)]
"""A probability, or a part of a whole that may be nothing."""

Share = Annotated[float, Ge(1e-9), Le(1)]
"""A part of a whole that is not nothing, or the weight of a new value in a moving average."""

Momentum = Annotated[float, Ge(0), Le(1)]
"""The weight of the old value in a moving average; with 1 it never changes."""

BelowOne = Annotated[float, Ge(0), Lt(1)]
"""The weight of the old value in a sum that grows with 1, or a probability that is never 1."""

Positive = Annotated[float, Ge(1e-9), Le(10**9)]
"""The factor or scale of a quantity; its inverse is far from the ends of float32, too."""

NonNegative = Annotated[float, Ge(0), Le(10**9)]
"""The weight of a term, which 0 switches off."""

Epsilon = Annotated[float, Ge(0), Le(1)]
"""What keeps a divisor from 0; 0 is off."""

PositiveEpsilon = Annotated[float, Ge(1e-30), Le(1)]
"""What keeps a divisor from 0 where it must; a smaller one would be 0 in float32."""

Strength = Annotated[float, Ge(0), Le(100)]
"""How much pixels in [0, 1] are changed; 0 is not at all."""

RateFactor = Annotated[float, Ge(0), Le(1000)]
"""What a learning rate is multiplied by, again and again."""

Temperature = Annotated[float, Ge(1e-4), Le(10_000)]
"""A divisor of scores; its square and its inverse are far from the ends of float32."""

Count = Annotated[int, Ge(1), Le(2**31 - 1)]
"""How many; at least one."""

CountOrZero = Annotated[int, Ge(0), Le(2**31 - 1)]
"""How many; 0 is none."""

Repeats = Annotated[int, Ge(1), Le(1000)]
"""How often a part of a step, or a measurement, is repeated."""

Iterations = Annotated[int, Ge(1), Le(1_000_000)]
"""Steps of a solver or of an attack, at most."""

WholeEpochs = Annotated[int, Ge(0), Le(100_000)]
"""A number of whole epochs; 0 is none."""

EpochCount = Annotated[int, Ge(1), Le(100_000)]
"""A number of whole epochs; at least one."""

Epochs = Annotated[float, Ge(0), Le(100_000)]
"""A number of epochs, not always whole; 0 is none."""

Dimension = Annotated[int, Ge(1), Le(2**20)]
"""The width of a layer."""

Rows = Annotated[int, Ge(1), Le(2**24)]
"""The rows of a queue or of a block of a matrix."""

RowsOrZero = Annotated[int, Ge(0), Le(2**24)]
"""Rows as above; 0 is none."""

Workers = Annotated[int, Ge(0), Le(1024)]
"""Processes on one machine; 0 is none beside this one."""

Bins = Annotated[int, Ge(1), Le(10_000)]
"""Bins of a histogram."""

Pictures = Annotated[int, Ge(1), Le(256)]
"""Small images or curves beside each other in one picture."""

Pixels = Annotated[int, Ge(1), Le(2**14)]
"""The side of an image, a crop or a kernel."""

Padding = Annotated[int, Ge(0), Le(256)]
"""Pixels on each side of an image; 0 is none."""

ShareRange = Annotated[tuple[Share, Share], INCREASING]
"""From which part of a whole to which."""

Zoom = Annotated[float, Ge(1e-3), Le(1000)]
"""A factor or a length that can be seen in an image."""

ZoomRange = Annotated[tuple[Zoom, Zoom], INCREASING]
"""From which factor or length to which."""

Score = Annotated[float, Ge(-(10**9)), Le(10**9)]
"""A value on an axis, of either sign."""

Seed = Annotated[int, Ge(0), Lt(2**32)]
"""The seed of a random stream."""
