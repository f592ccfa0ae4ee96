"""Law: few exceptions, split by who is at fault; each ends a process with its own exit code and one clear sentence.

The sentence names the field, the value and the mend.
"""

from typing import ClassVar


class HeadwaterError(Exception):
    """The end of a command. Subclasses say whose fault it is."""

    exit_code: ClassVar[int] = 1


class ConfigError(HeadwaterError):
    """The owner's configuration or run description."""

    exit_code = 2


class BrokerUnreachable(HeadwaterError):
    """The network, or a broker that does not run."""

    exit_code = 3


class AccessRefused(HeadwaterError):
    """The broker's administrator: a wrong password, certificate or ACL."""

    exit_code = 4


class DataError(HeadwaterError):
    """The data's owner: wrong shape, NaN, no examples."""

    exit_code = 5


class ModelError(HeadwaterError):
    """The model's author: an operator that cannot train, a graph that is not what it says."""

    exit_code = 6


class HistoryError(HeadwaterError):
    """The database: away, full, or of a newer version."""

    exit_code = 7


class StartAnew(HeadwaterError):
    """Nobody's: another version of the software is in place, and the launcher starts it."""

    exit_code = 75


class RunFailed(HeadwaterError):
    """A run that was started and did not finish."""

    exit_code = 8
