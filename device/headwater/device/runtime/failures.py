"""Law: whatever goes wrong with a graph is one of these, and its sentence can be sent to the parent as it stands."""


class GraphRefused(Exception):
    """The sender of the graph is at fault; the sentence names the operator, node or tensor."""


class TrainingTimedOut(Exception):
    """The graph ran longer than it was allowed to, and was stopped."""


class TrainingDiverged(Exception):
    """A result is NaN or infinite; the learning rate is too high, or the data are on too different scales."""


class WorkerFailed(Exception):
    """The worker ran out of memory, or ended; the agent lives on, and the next plan gets a fresh one."""
