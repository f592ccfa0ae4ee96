"""Law: a cluster's sum goes up in as few bytes as the run asks for; what is left out goes up with the next sum.

The remainder has two futures, for the parent may take the sum or not: what a refused sum held is left over, all of it.
"""

from headwater.node.child import Assignment
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta
from headwater.schemas.tensors import Array


class Uplink:
    """A gateway's encoding of its sums."""

    def __init__(self, node: str, store: NodeStore) -> None:
        self._node = node
        self._store = store

    async def encoded(self, delta: Delta, terms: tuple[Array, ...], assignment: Assignment) -> Delta:
        """The delta as it goes up."""
        return delta
