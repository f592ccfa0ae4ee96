"""Law: no library that is loaded here speaks to its makers: what it looks at for that is set before its first import.

The stock onnxruntime tells Microsoft of its use, from a thread that its import starts, unless it is told not to.
"""

from typing import Final

QUIET: Final = {"ORT_DISABLE_TELEMETRY": "1"}
"""Environment variables of every process that loads such a library."""
