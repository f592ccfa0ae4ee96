"""Law: data stay here. The device trains graphs that it was sent, on examples that it alone can read.

What this room imports is light: no ONNX package, no database, no command-line library (a test holds it to that).
"""

import os

# Before numpy is loaded: threads for large matrices would start with every agent and find nothing to multiply.
# What the owner has set stays.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
