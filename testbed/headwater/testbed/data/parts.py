"""Law: a part is one device's share, cut in time before anything is computed from it, so that no reading is in two.

A device trains on `train` and is measured on `test`. `judged` is for who judges an anomaly detector: the device does
not read it, and it alone knows which examples are anomalies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Members = Mapping[str, bytes]
"""Files of a package, by their path in it."""

JUDGED: Final = ("judged_x", "judged_y", "judged_anomaly")


@dataclass(frozen=True, slots=True)
class Part:
    """float32 x `[n, …]`, y int64 `[n]` or float32 `[n, …]`, `[n, 0]` without a target; `judged_anomaly` bool `[n]`."""

    train_x: NDArray[np.float32]
    train_y: NDArray[Any]
    test_x: NDArray[np.float32]
    test_y: NDArray[Any]
    judged_x: NDArray[np.float32] | None = None
    judged_y: NDArray[Any] | None = None
    judged_anomaly: NDArray[np.bool_] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Those that there are, by name."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return {name: array for name, array in told.items() if array is not None}


Reading = Callable[[Members], dict[str, Part]]
"""How a package's files become parts, by their names."""
