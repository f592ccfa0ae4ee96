"""Law: the documents of the contract are generated from it, so that they cannot say anything else.

    python -m headwater.schemas.document FOLDER [--check]

writes `asyncapi.json` (AsyncAPI 3.0) and `messages.schema.json` (JSON Schema of every message), or with `--check`
ends with 1 and names the files that are stale.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headwater.schemas import limits
from headwater.schemas.combinations import CONFLICTS
from headwater.schemas.messages import (
    MESSAGES,
    Alive,
    Announcement,
    Chunk,
    EnrolmentAnswer,
    EnrolmentRequest,
    Offer,
    Receipt,
    Refusal,
    Rollout,
    Signed,
    Want,
)
from headwater.schemas.statuses import Event, NodeStatus, Prediction, RoundStatus, RunStatus
from headwater.schemas.topics import ROOT

_STATUSES: Final[tuple[type[BaseModel], ...]] = (NodeStatus, RunStatus, RoundStatus, Prediction, Event)
_NODE: Final = ROOT + "/{fleet}/node/{node}"
_ENROL: Final = ROOT + "/{fleet}/enrol/{token}"

# Address, message, retained, what it is for.
_CHANNELS: Final[dict[str, tuple[str, type[BaseModel], bool, str]]] = {
    "status": (_NODE + "/status", NodeStatus, True, "A node's birth, and its last will."),
    "predictions": (
        _NODE + "/predictions",
        Prediction,
        False,
        "What its model says of its live data.",
    ),
    "delta": (
        _NODE + "/up/{parent}/delta",
        Chunk,
        False,
        "A Delta on its way up, signed where nodes have trust settings, in chunks.",
    ),
    "want": (_NODE + "/up/{parent}/want", Want, False, "The child asks for the chunks that it misses."),
    "offered": (_NODE + "/up/{parent}/offer", Offer, False, "The child's delta is ready, and waits to be asked for."),
    "child_alive": (_NODE + "/up/{parent}/alive", Alive, False, "A child's sign of life."),
    "declined": (_NODE + "/up/{parent}/refusal", Refusal, False, "The child cannot follow the plan."),
    "receipt": (_NODE + "/inbox/receipt", Receipt, False, "The parent has the delta in its round."),
    "refused": (_NODE + "/inbox/refusal", Refusal, False, "The parent did not take the delta."),
    "asked": (_NODE + "/inbox/want", Want, False, "The parent asks for missing chunks of a delta."),
    "served": (_NODE + "/inbox/chunk", Chunk, False, "The chunks that the child asked for."),
    "announcement": (_NODE + "/down/announcement", Announcement, True, "The open round of this parent, or none."),
    "broadcast": (_NODE + "/down/chunk", Chunk, False, "Models and graphs, once for the whole cohort."),
    "release": (_NODE + "/down/release", Rollout, True, "What software the devices below this parent should run."),
    "parent_alive": (_NODE + "/down/alive", Alive, False, "A parent's sign of life."),
    "run": (ROOT + "/{fleet}/rounds/run", RunStatus, True, "For people: the run."),
    "round": (ROOT + "/{fleet}/rounds/round", RoundStatus, True, "For people: the cloud's round."),
    "cluster": (ROOT + "/{fleet}/rounds/cluster/{node}", RoundStatus, True, "For people: a cluster's round."),
    "event": (ROOT + "/{fleet}/rounds/event/{node}", Event, False, "For people: what happened."),
    "enrol": (_ENROL + "/request", EnrolmentRequest, False, "By a one-time token: a certificate, please."),
    "enrolled": (_ENROL + "/answer", EnrolmentAnswer, False, "The certificate, or why not."),
}


def message_schemas() -> dict[str, Any]:
    """JSON Schema (2020-12) of every message and status. Bytes are msgpack `bin`, shown as binary strings."""
    models = [*MESSAGES, *_STATUSES]
    _, schema = models_json_schema([(model, "serialization") for model in models], title="Headwater messages")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: who speaks where, in which encoding, within which limits."""
    schemas = message_schemas()["$defs"]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headwater",
            "version": str(limits.PROTOCOL_VERSION),
            "description": _description(),
        },
        "defaultContentType": "application/msgpack",
        "channels": {name: _channel(*row) for name, row in _CHANNELS.items()},
        "operations": {
            name: {"action": "send", "channel": {"$ref": f"#/channels/{name}"}, "summary": summary}
            for name, (_, _, _, summary) in _CHANNELS.items()
        },
        "components": {
            "messages": {model.__name__: _message(model) for model in (*MESSAGES, *_STATUSES)},
            "schemas": json.loads(json.dumps(schemas).replace("#/$defs/", "#/components/schemas/")),
        },
    }


def _description() -> str:
    return (
        "msgpack maps that begin with `v` (the protocol version) and `kind`, then the fields in the order of the "
        f"schema; one encoding for each message. A message has at most {limits.MAX_MESSAGE_SIZE_BYTES} bytes; larger "
        f"objects travel in chunks of {limits.CHUNK_SIZE_BYTES} bytes, up to {limits.MAX_OBJECT_SIZE_BYTES} bytes, "
        "named by their SHA-256. Statuses for people are JSON. QoS 1 throughout."
    )


def _channel(address: str, model: type[BaseModel], retained: bool, summary: str) -> dict[str, Any]:
    parameters = [part[1:-1] for part in address.split("/") if part.startswith("{")]
    # Where nodes have trust settings the announcement is the payload of a signed message.
    models = (model, Signed) if model is Announcement else (model,)
    return {
        "address": address,
        "summary": summary,
        "parameters": {name: {"description": _PARAMETERS[name]} for name in parameters},
        "messages": {one.__name__: {"$ref": f"#/components/messages/{one.__name__}"} for one in models},
        "bindings": {"mqtt": {"qos": 1, "retain": retained}},
    }


_PARAMETERS: Final = {
    "fleet": "The fleet's name.",
    "node": "The node whose topic this is; it alone writes here, but for its inbox.",
    "parent": "The parent for which this is meant.",
    "token": "The name of a one-time token, which is the client identifier of who has it.",
}


def _message(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": model.__name__,
        "summary": (model.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json" if model in _STATUSES else "application/msgpack",
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
    }


def combinations() -> str:
    """What is refused together, as a table."""
    rows = "".join(f"| {conflict.this} | {conflict.that} | {conflict.because} |\n" for conflict in CONFLICTS)
    return (
        "# What does not go together\n\nA run that asks for it is refused with the reason, before anything is sent. "
        "Generated from `schemas/combinations.py`.\n\n| this | does not go with | because |\n|---|---|---|\n" + rows
    )


def documents() -> dict[str, str]:
    """File name to text."""
    return {
        "asyncapi.json": json.dumps(asyncapi(), indent=1, ensure_ascii=False) + "\n",
        "messages.schema.json": json.dumps(message_schemas(), indent=1, ensure_ascii=False) + "\n",
        "combinations.md": combinations(),
    }


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    stale = [name for name, text in documents().items() if not _holds(folder / name, text)]
    if "--check" in arguments:
        for name in stale:
            print(f"{folder / name}: stale; run python -m headwater.schemas.document {folder}", file=sys.stderr)
        return 1 if stale else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (folder / name).write_text(documents()[name], encoding="utf-8")
    return 0


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
