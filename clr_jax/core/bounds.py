"""Types of options with common bounds, for `core.options`.

A number above an upper bound would overflow float32 or int32 somewhere, or can only be a mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le, Lt

from clr_jax.core.annotations import DISTINCT, INCREASING

Probability = Annotated[float, Ge(0), Le(1)]
"""A probability, or a fraction that may be 0."""

Share = Annotated[float, Ge(1e-9), Le(1)]
"""A positive fraction, or the weight of a new value in a moving average."""

Momentum = Annotated[float, Ge(0), Le(1)]
"""The weight of the old value in a moving average; 1 keeps it constant."""

BelowOne = Annotated[float, Ge(0), Lt(1)]
"""The weight of the old value in a sum that would diverge at 1, or a probability below 1."""

Positive = Annotated[float, Ge(1e-9), Le(10**9)]
"""A factor or scale; its inverse is also well within the range of float32."""

NonNegative = Annotated[float, Ge(0), Le(10**9)]
"""The weight of a term; 0 switches it off."""

Epsilon = Annotated[float, Ge(0), Le(1)]
"""A constant that keeps a divisor from 0; 0 is off."""

PositiveEpsilon = Annotated[float, Ge(1e-30), Le(1)]
"""A required constant that keeps a divisor from 0; a smaller one would be 0 in float32."""

Strength = Annotated[float, Ge(0), Le(100)]
"""The strength of a change of pixels in [0, 1]; 0 is none."""

RateFactor = Annotated[float, Ge(0), Le(1000)]
"""A factor by which a learning rate is multiplied repeatedly."""

Temperature = Annotated[float, Ge(1e-4), Le(10_000)]
"""A divisor of scores; its square and its inverse are well within the range of float32."""

Count = Annotated[int, Ge(1), Le(2**31 - 1)]
"""A number of things, at least one."""

CountOrZero = Annotated[int, Ge(0), Le(2**31 - 1)]
"""A number of things; 0 is none."""

Repeats = Annotated[int, Ge(1), Le(1000)]
"""The number of repetitions of a part of a step, or of a measurement."""

Iterations = Annotated[int, Ge(1), Le(1_000_000)]
"""The largest number of steps of a solver or of an attack."""

WholeEpochs = Annotated[int, Ge(0), Le(100_000)]
"""A number of whole epochs; 0 is none."""

EpochCount = Annotated[int, Ge(1), Le(100_000)]
"""A number of whole epochs; at least one."""

Epochs = Annotated[float, Ge(0), Le(100_000)]
"""A number of epochs, not always whole; 0 is none."""

Milestones = Annotated[Sequence[Epochs], INCREASING, DISTINCT]
"""Epochs at which something changes."""

Dimension = Annotated[int, Ge(1), Le(2**20)]
"""The width of a layer."""

Rows = Annotated[int, Ge(1), Le(2**24)]
"""The rows of a queue or of a block of a matrix."""

RowsOrZero = Annotated[int, Ge(0), Le(2**24)]
"""The rows of a queue or of a block of a matrix; 0 is none."""

Workers = Annotated[int, Ge(0), Le(1024)]
"""Additional processes on one machine."""

Bins = Annotated[int, Ge(1), Le(10_000)]
"""Bins of a histogram."""

Pictures = Annotated[int, Ge(1), Le(256)]
"""The number of small images or curves in one figure."""

Pixels = Annotated[int, Ge(1), Le(2**14)]
"""The side of an image, a crop or a kernel."""

Padding = Annotated[int, Ge(0), Le(256)]
"""Pixels on each side of an image; 0 is none."""

ShareRange = Annotated[tuple[Share, Share], INCREASING]
"""A range of fractions of a whole, (lowest, highest)."""

Zoom = Annotated[float, Ge(1e-3), Le(1000)]
"""A factor or a length with a visible effect on an image."""

ZoomRange = Annotated[tuple[Zoom, Zoom], INCREASING]
"""A range of factors or lengths, (lowest, highest)."""

Score = Annotated[float, Ge(-(10**9)), Le(10**9)]
"""A value on an axis, positive or negative."""

Seed = Annotated[int, Ge(0), Lt(2**32)]
"""The seed of a random stream."""
