"""What a parent sees in a round over a real broker, in its order: each thing once."""

from headwater.node.child import Assignment
from headwater.node.child import Decline as Refuses
from headwater.node.observing import Came, Declined, Ended, NotTaken, Opened, Seen, Taken, Went
from headwater.schemas.messages import Delta, Refusal, RoundKey
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore
from support.fleets import Fleet, hosted, plan, present, until

KEY = RoundKey(run="r", round=1)


async def refuses(_: Assignment) -> Delta | Refuses:
    return Refuses("not_now", "on battery")


async def test_a_parent_says_what_it_sees(fleet: Fleet) -> None:
    seen: list[Seen] = []
    objects = ObjectStore(10**7)
    parent = fleet.parent("p", objects=objects, observe=seen.append)
    d0 = fleet.device("d0", "p")
    fleet.doing("d1", "p", refuses)
    await present(parent, "d0", "d1")
    await hosted(parent, plan(1, objects, quorum=0.5))
    # A word of whoever is no child here.
    topic = Topics(fleet.name).up("stranger", "p", "refusal")
    await d0.session.publish(topic, encode(Refusal(key=KEY, sender="stranger", reason="no_data")))
    await until(lambda: isinstance(seen[-1], NotTaken))
    await fleet.kill("d1")
    await until(lambda: isinstance(seen[-1], Went))

    assert {one.node for one in seen if isinstance(one, Came)} == {"d0", "d1"}
    assert [one for one in seen if isinstance(one, Opened)] == [Opened(KEY, "train", 2)]
    (taken,) = [one for one in seen if isinstance(one, Taken)]
    assert taken.node == "d0"
    assert taken.size_bytes > 0
    assert [one for one in seen if isinstance(one, Declined)] == [Declined("d1", KEY, "not_now", "on battery")]
    (ended,) = [one for one in seen if isinstance(one, Ended)]
    assert ended.result.closed
    assert ended.result.told is not None
    assert [member.state for member in ended.result.told.members] == ["received", "refused"]
    (refused,) = [one for one in seen if isinstance(one, NotTaken)]
    assert (refused.node, refused.key, refused.reason) == ("stranger", None, "unauthorised")
    assert [one for one in seen if isinstance(one, Went)] == [Went("d1", "offline")]
