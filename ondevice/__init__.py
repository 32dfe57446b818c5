"""ondevice: run compressed click-through-rate models on phones and small boards."""

from ondevice.errors import OnDeviceError
from ondevice.live import Live
from ondevice.model import Model, load

__all__ = ["Live", "Model", "OnDeviceError", "load", "__version__"]

__version__ = "0.1.0"
