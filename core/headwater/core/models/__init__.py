"""Law: a model is made of plain ONNX nodes, from a description and a seeded generator, and nothing else.

builder.py        the graph under construction, with its normaliser
initial.py        first weights by published rules
dense.py          logistic regression, multilayer perceptron, autoencoder
convolutional.py  for windows of sensors, images, keywords; an autoencoder of windows
recurrent.py      GRU
attention.py      a transformer's encoder
described.py      from a run's description to one of these
"""

from headwater.core.models.attention import transformer
from headwater.core.models.builder import NORMALISER, NORMALISER_NAMES
from headwater.core.models.convolutional import autoencoder1d, cnn1d, cnn2d, ds_cnn
from headwater.core.models.dense import autoencoder, mlp
from headwater.core.models.described import build
from headwater.core.models.recurrent import gru

__all__ = [
    "NORMALISER",
    "NORMALISER_NAMES",
    "autoencoder",
    "autoencoder1d",
    "build",
    "cnn1d",
    "cnn2d",
    "ds_cnn",
    "gru",
    "mlp",
    "transformer",
]
