"""Law: a model on the disk is whole or it is not there: written beside, synced, then renamed over the last one.

One line of JSON (who it is, the sizes and the hash of what follows), then the bundle and the model as they travel. The
file is its owner's alone: a model may hold parameters that never leave this device.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater.device.disk import replace_file
from headwater.device.serving.decision import Score, Standing
from headwater.schemas.limits import MAX_OBJECT_SIZE_BYTES
from headwater.schemas.messages import Bundle, Errors, Model
from headwater.schemas.wire import WireError, decode_object, encode

log = logging.getLogger("headwater.device")


@dataclass(frozen=True, slots=True)
class Kept:
    """A model that was served well. `threshold` is of its errors on this device, `level` are the fleet's."""

    standing: Standing
    bundle: Bundle
    model: Model
    threshold: float | None = None
    level: Errors | None = None


class Shelf:
    """The last good model of one data key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, kept: Kept) -> None:
        """Raises OSError where the disk cannot be written; the last one is still there then."""
        bundle, model = encode(kept.bundle), encode(kept.model)
        header = {
            "standing": asdict(kept.standing),
            "threshold": kept.threshold,
            "level": kept.level.model_dump() if kept.level is not None else None,
            "sizes_bytes": [len(bundle), len(model)],
            "sha256": hashlib.sha256(bundle + model).hexdigest(),
        }
        replace_file(self._path, [json.dumps(header).encode(), b"\n", bundle, model])

    def get(self) -> Kept | None:
        """The last good model; None where there is none, or it is damaged, which is logged."""
        try:
            with self._path.open("rb") as file:
                return _read(file.readline(65_536), file.read(2 * MAX_OBJECT_SIZE_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, WireError) as error:
            log.warning("%s is passed over: %s", self._path, error)
            return None


def _read(line: bytes, content: bytes) -> Kept:
    header: dict[str, Any] = json.loads(line)
    first, second = header["sizes_bytes"]
    if first + second != len(content) or hashlib.sha256(content).hexdigest() != header["sha256"]:
        raise ValueError("damaged; a model of the next round takes its place")
    standing = header["standing"]
    score = standing.pop("score")
    # A file of an earlier version has none.
    level = header.get("level")
    return Kept(
        Standing(**standing, score=Score(**score) if score else None),
        decode_object(content[:first], Bundle),
        decode_object(content[first:], Model),
        header["threshold"],
        Errors.model_validate_json(json.dumps(level)) if level is not None else None,
    )
