"""How far a graph's run raises a process's memory, measured in a process of its own.

python tests/core/peak.py FEED.npz      the graph's bytes under `graph`, its inputs under their names
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

STATUS = Path("/proc/self/status")


def memory_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_bytes(path: Path) -> int:
    with np.load(path) as arrays:
        feed = {name: arrays[name] for name in arrays.files}
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(feed.pop("graph").tobytes(), options, providers=["CPUExecutionProvider"])
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_bytes("VmRSS")
    session.run(None, feed)
    return memory_bytes("VmHWM") - before


if __name__ == "__main__":
    print(peak_bytes(Path(sys.argv[1])))
