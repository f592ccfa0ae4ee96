"""The device is light: its modules import with everything heavier blocked, and load nothing outside a stated list."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys

BLOCKED = {"sqlalchemy", "alembic", "amqtt", "onnx", "sklearn", "pandas", "scipy", "seglearn", "typer", "click", "rich",
           "torch", "pyarrow", "psycopg", "psutil"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import headwater.device
importlib.import_module("headwater.device.__main__")
loaded = [name for name in ("onnxruntime", "google.protobuf") if name in sys.modules]
assert not loaded, f"the agent itself loads {loaded}, which is the worker's affair"
for module in pkgutil.walk_packages(headwater.device.__path__, "headwater.device."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

STATED = {"backports", "aiomqtt", "paho", "numpy", "onnxruntime", "msgpack", "pydantic", "pydantic_core", "annotated_types",
          "typing_extensions", "typing_inspection", "google", "headwater"}
third_party = {
    name.split(".")[0] for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", "") or "")
}
extra = {name for name in third_party if name not in STATED and not name.startswith("_")}
assert not extra, extra
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("headwater.")}
assert rooms == {"device", "node", "core", "transport", "schemas"}, rooms
"""

WORKER = """
import sys
import headwater.device.runtime.worker
import headwater.device.runtime.runner

third_party = {
    name.split(".")[0] for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", "") or "")
}
extra = {name for name in third_party - {"numpy", "onnxruntime", "google", "headwater"} if not name.startswith("_")}
assert not extra, extra
ours = {name for name in sys.modules if name.startswith("headwater.") and not name.startswith("headwater.device")}
assert ours <= {"headwater.schemas", "headwater.schemas.limits"}, ours
assert not {"asyncio", "socket", "ssl", "multiprocessing"} & set(sys.modules), "no way out"
"""


def test_the_worker_imports_numbers_and_graphs_alone() -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_device_imports_nothing_heavy_and_no_other_tier() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
