"""Law: what signatures cost is measured beside the same without: a delta's bytes and processor time, and a round's.

python benchmarks/signing.py            a delta of each size, then a fleet signed and plain, in turn
python benchmarks/signing.py --deltas   deltas alone
"""

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from round_trip import Case, measure
from tables import aligned

from headwater.node.envelope import unsigned
from headwater.node.trusting import Trust
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import decode_object, encode_object
from headwater.trust.authority import Authority, issue, new_authority
from headwater.trust.certificates import Anchors, identify, to_der
from headwater.trust.guard import Guard
from headwater.trust.keys import new_key

KEY: Final = RoundKey(run="bench", round=1)
SIZES: Final = (100, 2_410, 100_000, 1_000_000)
"""Parameters; the second is the digits task's model."""

TIMES: Final = 200
PAIRS: Final = 3


def trust(authority: Authority, node: str) -> Trust:
    """A node of an authority in memory."""
    key, now = new_key(), datetime.now(UTC)
    certificate, anchors = issue(authority, node, key.public, now), Anchors((authority.certificate,))
    guard = Guard("bench", node, key, identify(certificate, anchors), to_der(certificate), anchors)
    return Trust(lambda: guard)


def cpu_s(work: Callable[[], object], times: int) -> float:
    """Processor time of one call: the least of five batches, which is what others on the machine disturb least."""
    batches = []
    for _ in range(5):
        before = time.process_time()
        for _ in range(max(1, times // 5)):
            work()
        batches.append((time.process_time() - before) / max(1, times // 5))
    return min(batches)


def of_a_delta(parameters: int) -> dict[str, Any]:
    """Sealing and opening one, beside decoding it, which a parent does in any case."""
    authority = new_authority("bench", new_key(), datetime.now(UTC))
    device, gateway = trust(authority, "d0"), trust(authority, "gw")
    tensors = encode_tensors([np.random.default_rng(1).normal(size=parameters).astype(np.float32)])
    delta = Delta(key=KEY, sender="d0", task="train", weight=1.0, examples=1, devices=1, tensors=tensors)
    plain = encode_object(delta)
    signed = device.sealed(KEY, plain, "gw")
    certificate = device.certificate
    times = max(10, TIMES * 1000 // max(1000, parameters))

    def read(payload: bytes) -> Delta:
        return decode_object(payload, Delta)

    decoded_s = cpu_s(lambda: read(unsigned(plain)), times)
    opened_s = cpu_s(lambda: read(gateway.proof("d0", certificate).opened(signed)), times)
    return {
        "parameters": parameters,
        "plain_bytes": len(plain),
        "added_bytes": len(signed) - len(plain),
        "seal_us": round(1e6 * cpu_s(lambda: device.sealed(KEY, plain, "gw"), times), 1),
        "read_plain_us": round(1e6 * decoded_s, 1),
        "read_signed_us": round(1e6 * opened_s, 1),
        "certificate_bytes": len(base64.b64decode(certificate)),
    }


def of_a_round() -> dict[str, Any]:
    """Ten devices, two gateways and a cloud: the same fleet plain and signed, in turn, the median of each."""
    times: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(PAIRS):
        for signed in (False, True):
            times[signed].append(measure(Case(10, 3, "mosquitto", signed=signed)))

    def median(signed: bool, what: str) -> float:
        return float(np.median([one[what] for one in times[signed]]))

    return {
        what: {"plain": median(False, what), "signed": median(True, what)}
        for what in ("median_round_s", "cpu_s", "bytes_up", "bytes_down")
    }


def table_of_deltas(deltas: list[dict[str, Any]]) -> str:
    head = ("parameters", "bytes", "+ bytes", "seal µs", "read plain µs", "read signed µs")
    keys = ("parameters", "plain_bytes", "added_bytes", "seal_us", "read_plain_us", "read_signed_us")
    return aligned((head, *(tuple(f"{one[key]:.0f}" for key in keys) for one in deltas)))


def table_of_rounds(rounds: dict[str, Any]) -> str:
    head = ("10 devices, three tiers", "plain", "signed", "×")
    rows = [
        (what, f"{of['plain']:g}", f"{of['signed']:g}", f"{of['signed'] / of['plain']:.3f}")
        for what, of in rounds.items()
    ]
    return aligned((head, *rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--deltas", action="store_true", help="deltas alone")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the tables")
    given = parser.parse_args()
    deltas = [of_a_delta(parameters) for parameters in SIZES]
    rounds = None if given.deltas else of_a_round()
    if given.json:
        print(json.dumps({"deltas": deltas, "round": rounds}))
        return 0
    print(table_of_deltas(deltas))
    if rounds is not None:
        print(table_of_rounds(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
