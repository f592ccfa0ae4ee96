"""Law: a run told to an experiment tracker twice is there once, and goes on where it was told before.

Which tracker is a name; each has a module here that alone loads its library.
"""

from headwater.bridges.experiments.experiment import Experiment as Experiment
from headwater.bridges.experiments.experiment import Scalar as Scalar
from headwater.bridges.experiments.experiment import flattened as flattened
