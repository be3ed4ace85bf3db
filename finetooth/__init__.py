"""Finetooth as a library: record what each sample of a training run teaches, and talk to the service.

    from finetooth import Client, InfluenceCallback, Recorder

The import itself loads nothing else; each name loads its part when it is first used, which needs the extra of the
same name as its module: `finetooth.recorder`, `finetooth.statistics`, `finetooth.trainer`, `finetooth.client`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetooth.client import Client
    from finetooth.recorder import Recorder
    from finetooth.trainer import InfluenceCallback

    __version__: str

__all__ = ["Client", "InfluenceCallback", "Recorder", "__version__"]

_MODULES = {
    "Client": "finetooth.client",
    "InfluenceCallback": "finetooth.trainer",
    "Recorder": "finetooth.recorder",
}

# A type checker sees the names above, and finds a misspelt one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name when it is first used (PEP 562)."""
        if name == "__version__":
            from importlib.metadata import version

            found = version("finetooth")
        elif name in _MODULES:
            found = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module 'finetooth' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
