"""Law: an agent asks a source for what it has now, at each plan; whether that ever changes is the source's affair."""

from dataclasses import dataclass
from typing import Protocol

from headwater.device.sources.dataset import Dataset
from headwater.schemas.statuses import DataStatus


class Source(Protocol):
    """Examples under one data key."""

    def snapshot(self) -> Dataset | None:
        """A consistent view, which does not change any more; None while there is nothing to train on. It may read the
        disk."""

    def status(self) -> DataStatus | None:
        """What the parent is told; None keeps the key out of it, so that nobody asks."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Examples that were read once."""

    data: Dataset

    def snapshot(self) -> Dataset | None:
        return self.data

    def status(self) -> DataStatus | None:
        return DataStatus(train_examples=len(self.data.train_x), test_examples=len(self.data.test_x))
