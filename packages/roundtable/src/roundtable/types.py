"""Type aliases shared by every module; nothing here has behaviour."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

RunId: TypeAlias = str
WorkerId: TypeAlias = str
OrderId: TypeAlias = str
ClientId: TypeAlias = int  # 0 … K-1, for portable and pinned clients alike
Digest: TypeAlias = str  # BLAKE3, 64 lower-case hexadecimal digits
Seconds: TypeAlias = float

Metrics: TypeAlias = Mapping[str, float]
