"""Law: what an encoder leaves out is known to it, and what a decoder makes of any bytes is bounded and finite.

encode(update, specification, …) → payload          decode(payload, specs) → update
"""

from collections.abc import Sequence

import numpy as np

from headwater.schemas.learning import Compression
from headwater.schemas.tensors import Array, Specs, TensorError


def encode(update: Sequence[Array], specs: Specs, compression: Compression, draw: np.random.Generator) -> bytes:
    raise NotImplementedError


def decode(payload: bytes, specs: Specs) -> tuple[Array, ...]:
    """The update in a payload: float32 arrays of the specs' shapes.

    Raises:
        TensorError: the payload is of no codec that is known here, or not of these shapes.
    """
    raise TensorError("malformed", f"coded: no codec {payload[0]}")
