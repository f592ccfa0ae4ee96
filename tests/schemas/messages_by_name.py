"""One example of every message, used by the wire's tests and frozen as bytes in `wire/`."""

import numpy as np

from headwater.schemas.learning import Compression, Learning, Strategy
from headwater.schemas.manifest import Example, Manifest, Parameter, Slot, Tally
from headwater.schemas.messages import (
    Alive,
    Announcement,
    Bundle,
    Chunk,
    Counts,
    Delta,
    EnrolmentAnswer,
    EnrolmentRequest,
    Errors,
    Message,
    Metric,
    Model,
    ObjectRef,
    Offer,
    Patch,
    PatchRef,
    Plan,
    Receipt,
    Refusal,
    Release,
    Rollout,
    RoundKey,
    Signed,
    Want,
)
from headwater.schemas.tensors import encode_tensors

KEY = RoundKey(run="run-1", round=3, step=0, attempt=1)
REF = ObjectRef(sha256=bytes(range(32)), size_bytes=5)
PLAN = Plan(key=KEY, task="train", data="watch", model=REF, bundle=REF, evaluate=True)
TENSORS = encode_tensors([np.array([[1.0, -2.0]], np.float32), np.array([0.5], np.float32)])

MESSAGES: dict[str, Message] = {
    "bundle": Bundle(
        manifest=Manifest(
            model="mlp",
            objective="cross_entropy",
            parameters=(Parameter(name="w", shape=(1, 2)), Parameter(name="scale", shape=(1,), trainable=False)),
            x=Example(shape=(1,), dtype="float32"),
            y=Example(shape=(), dtype="int64", classes=2),
            metrics=("loss", "correct"),
        ),
        graphs={"train": b"\x08\x08", "evaluate": b"\x08\x0a"},
    ),
    "bundle_momentum": Bundle(
        manifest=Manifest(
            model="cnn",
            objective="cross_entropy",
            parameters=(
                Parameter(name="w", shape=(1, 2)),
                Parameter(name="norm.mean", shape=(2,), trainable=False, state=True),
                Parameter(name="head", shape=(2,), personal=True),
            ),
            x=Example(shape=(1,), dtype="float32"),
            y=Example(shape=(), dtype="int64", classes=2),
            metrics=("loss", "correct"),
            tallies=(Tally(name="class_examples", length=2),),
            variant="proximal",
            random=True,
            slots=(Slot(name="velocity.w", shape=(1, 2)), Slot(name="velocity.head", shape=(2,))),
            hyperparameters={"momentum": 0.9, "mu": 0.01},
        ),
        graphs={"train": b"\x08\x08"},
    ),
    "model": Model(run="run-1", version=3, tensors=TENSORS),
    "model_clustered": Model(
        run="run-1", version=3, tensors=TENSORS * 2, clusters=("gw1", "gw2"), companions=TENSORS[:1]
    ),
    "patch": Patch(run="run-1", version=3, update=b"\x01\x02"),
    "announcement": Announcement(parent="gw1", plan=PLAN, cohort=("d1", "d2"), closed=RoundKey(run="run-1", round=2)),
    "announcement_idle": Announcement(parent="gw1"),
    "announcement_buffered": Announcement(
        parent="cloud",
        plan=PLAN.model_copy(
            update={
                "max_staleness": 20,
                "staleness_exponent": 1.0,
                "buffer": 10,
                "over_selection": 0.25,
                "adaptive_deadline": True,
            }
        ),
        offers=True,
    ),
    "announcement_learning": Announcement(
        parent="cloud",
        plan=PLAN.model_copy(
            update={
                "learning": Learning(
                    strategy=Strategy(name="scaffold"), uplink=Compression(codec="stc", fraction=0.02)
                ),
                "patch": PatchRef(base=REF, patch=REF, codec="int8"),
                "mask": REF,
            }
        ),
    ),
    "announcement_errors": Announcement(
        parent="cloud",
        plan=PLAN.model_copy(
            update={
                "errors": (
                    Errors(split="test", first=40, counts=(3.0, 0.0, 1.5)),
                    Errors(split="personal", first=0, counts=(2.0,)),
                )
            }
        ),
    ),
    "offer": Offer(key=KEY, sender="d1", object=REF),
    "alive": Alive(sender="d1", boot="6f1c2a90", every_s=30.0),
    "delta": Delta(
        key=KEY,
        sender="d1",
        task="train",
        weight=140.0,
        examples=140,
        devices=1,
        tensors=TENSORS,
        metrics=(Metric(split="train", name="loss", total=12.5, weight=140.0),),
        applied=("clip",),
    ),
    "delta_tallied": Delta(
        key=KEY,
        sender="d1",
        task="evaluate",
        weight=3.0,
        examples=3,
        devices=1,
        metrics=(Metric(split="test", name="correct", total=2.0, weight=3.0),),
        tallies=(Counts(split="test", name="class_examples", values=encode_tensors([np.array([2.0, 1.0])])[0]),),
    ),
    "delta_coded": Delta(
        key=KEY,
        sender="d1",
        task="train",
        weight=3.0,
        examples=3,
        devices=1,
        coded=b"\x01\x02\x03",
        shares=(0.0, 3.0),
        applied=("stc",),
    ),
    "chunk": Chunk(object=REF, offset=0, data=b"hello"),
    "release": Release(fleet="plant", counter=3, version="0.2.0", wheel=REF),
    "rollout": Rollout(release=b"\x81", signature=bytes(64), stage=1, nodes=("d1", "d2"), share=0.25),
    "want": Want(object=REF, missing=(0, 2)),
    "receipt": Receipt(key=KEY, sender="gw1"),
    "signed_delta": Signed(
        domain="delta", sender="d1", receiver="gw1", key=KEY, signature=bytes(range(64)), payload=b"a delta"
    ),
    "signed_announcement": Signed(
        domain="announcement",
        sender="gw1",
        epoch=217_000_000,
        number=3,
        certificate=b"a certificate",
        signature=bytes(range(64)),
        payload=b"an announcement",
    ),
    "refusal": Refusal(key=None, sender="gw1", reason="stale", detail="round 2.0.0 is over"),
    "enrolment_request": EnrolmentRequest(node="d1", request=b"a request in PEM", proof=bytes(range(32))),
    "enrolment_answer": EnrolmentAnswer(certificate=b"in PEM", authorities=b"in PEM too", proof=bytes(range(32))),
    "enrolment_refused": EnrolmentAnswer(refusal="token: ended on 2026-11-26 12:00 UTC; make a new one"),
}
