"""Law: a model of another library comes in as forward ONNX that says the same, or with a sentence that says why not.

pytorch.py    from_torch: a torch.nn.Module; PyTorch is imported when it is called, and needs no more than itself
importing.py  an ONNX file of any exporter, written anew as the compiler reads it
"""

from headwater.models.importing import Imported, imported, shared_parameters
from headwater.models.pytorch import from_torch

__all__ = ["Imported", "from_torch", "imported", "shared_parameters"]
