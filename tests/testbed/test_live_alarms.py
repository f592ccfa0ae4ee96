"""An alarm level that a fleet learned: a device that has no test part of its own knows what is odd, without moving data."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headwater.cloud.history import open_history
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import Prediction
from headwater.testbed.processes import Processes
from support.brokers import broker
from support.predictions import Heard, drain, overheard
from support.sensors import pump, sensing
from support.waiting import until

ABOUT: dict[str, Any] = {
    "name": "pumps",
    "data": "pump",
    "rounds": 1000,
    "objective": "mse",
    "model": {"kind": "mlp", "features": 2, "classes": 2, "hidden": (4,)},
    "local": {"batch_size": 8, "epochs": 3, "learning_rate": 0.1},
    "cohort": {"deadline_s": 10.0, "quorum": 1.0, "min_children": 2},
}
TEST_FRACTIONS = {"d1": 0.5, "d2": 0.0}
FOR_EVER_S = 1e9
ROUNDS_ENOUGH = 20


def test_an_anomaly_is_an_alarm_where_only_the_fleet_knows_what_is_usual(tmp_path: Path) -> None:
    """Forecasts: d1 has a test part, d2 has none, and d2's machine breaks."""
    database, log = f"sqlite:///{(tmp_path / 'history.db').resolve()}", tmp_path / "run" / "d2.log"
    with broker("embedded") as port, Processes(tmp_path / "run") as processes, overheard(port) as heard:
        link = {"fleet": "plant", "broker": {"port": port}}
        processes.start("cloud", link | {"node": "cloud", "database": database})
        for name, fraction in TEST_FRACTIONS.items():
            source = pump(f"plant/{name}", label=None, forecast={}, layout="flat", test_fraction=fraction)
            about = {"node": name, "state": str(tmp_path / "state"), "data": {"pump": source}}
            serving = {"enabled": True, "max_per_minute": 6000.0, "alert_quantile": 0.999}
            processes.start("device", link | about | {"serving": serving})
        history = open_history(database)
        try:
            with sensing(port, "plant/d1", state_every_s=FOR_EVER_S):
                with sensing(port, "plant/d2", state_every_s=FOR_EVER_S):
                    history.enqueue_run("r", "plant", RunDescription.model_validate(ABOUT), None, datetime.now(UTC))
                    until(lambda: any(told.threshold is not None for told in of("d2", heard)), log)
                    # Some seconds of d1's test part, of which the largest error is then no chance.
                    until(lambda: history.show_run("r").round >= ROUNDS_ENOUGH, log)
                    history.request("r", "stop", datetime.now(UTC))
                    until(lambda: history.show_run("r").state == "stopped", log)
                    drain(heard)
                    usual = judged("d2", heard, 20)
                    assert sum(told.alert for told in usual) <= 4
                drain(heard)
                with sensing(port, "plant/d2", state_every_s=FOR_EVER_S, noise=3.0):
                    until(lambda: any(told.alert for told in judged("d2", heard, 5)), log)
                    odd = judged("d2", heard, 20)
            assert sum(told.alert for told in odd) >= 12
            for told in odd:
                assert told.value is not None
                assert told.error is not None
                assert told.threshold is not None
                assert told.alert == (told.error > told.threshold)
        finally:
            history.close()


def of(node: str, heard: Heard) -> list[Prediction]:
    """What was heard of a node by now."""
    told = []
    while not heard.empty():
        told.append(heard.get_nowait())
    return [one for one in told if one.node == node]


def judged(node: str, heard: Heard, count: int, limit_s: float = 20.0) -> list[Prediction]:
    """The next forecasts of a node that are told with their error."""
    deadline, found = time.monotonic() + limit_s, list[Prediction]()
    while len(found) < count:
        told = heard.get(timeout=max(0.01, deadline - time.monotonic()))
        if told.node == node and told.error is not None:
            found.append(told)
    return found
