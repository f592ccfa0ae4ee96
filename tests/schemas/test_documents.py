"""The generated documents are fresh, and true of the messages."""

import json
from pathlib import Path

import jsonschema
import pytest

from headwater.schemas import document
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.topics import Topics

CONTRACT = Path(__file__).parents[2] / "docs" / "contract"


def test_the_committed_documents_are_fresh() -> None:
    assert document.main([str(CONTRACT), "--check"]) == 0


def test_a_stale_document_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document.main([str(tmp_path)]) == 0
    (tmp_path / "asyncapi.json").write_text("{}")
    assert document.main([str(tmp_path), "--check"]) == 1
    assert "asyncapi.json: stale" in capsys.readouterr().err


def test_a_status_agrees_with_its_published_schema() -> None:
    schemas = json.loads((CONTRACT / "messages.schema.json").read_text())
    validator = jsonschema.Draft202012Validator({**schemas, "$ref": "#/$defs/NodeStatus"})
    status = NodeStatus(node="d1", role="device", parent="gw1", state="online")
    validator.validate(status.model_dump(mode="json"))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**status.model_dump(mode="json"), "state": "asleep"})


def test_every_channel_is_a_topic_that_the_contract_builds() -> None:
    topics = Topics("plant")
    channels = json.loads((CONTRACT / "asyncapi.json").read_text())["channels"]
    for channel in channels.values():
        address = channel["address"].format(fleet="plant", node="d1", parent="gw", token="00ff")
        for_people = (topics.run, topics.round, topics.cluster("d1"), topics.event("d1"))
        for_strangers = (topics.enrolment("00ff", "request"), topics.enrolment("00ff", "answer"))
        assert topics.parse(address) is not None or address in (*for_people, *for_strangers), address
