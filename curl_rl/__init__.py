"""Train agents from pixels with encoders that learn by contrast."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curl_rl.commands.python import TrainedRun, load_run, train
    from curl_rl.representation.classifier import load_classifier
    from curl_rl.representation.distil import Distiller
    from curl_rl.representation.export import load_encoder
    from curl_rl.representation.finetune import Finetuner
    from curl_rl.representation.frames import frames_of
    from curl_rl.representation.index import FrameIndex
    from curl_rl.representation.pretrain import Pretrainer
    from curl_rl.representation.tap import Tap
    from curl_rl.representation.unknowns import Incremental, Recogniser

__version__ = "0.1.0"
__all__ = [
    "Distiller",
    "Error",
    "Finetuner",
    "FrameIndex",
    "Incremental",
    "Pretrainer",
    "Recogniser",
    "Tap",
    "TrainedRun",
    "__version__",
    "frames_of",
    "load_classifier",
    "load_encoder",
    "load_run",
    "train",
]

_PLACES = {
    "Distiller": "representation.distil",
    "Finetuner": "representation.finetune",
    "FrameIndex": "representation.index",
    "Incremental": "representation.unknowns",
    "Pretrainer": "representation.pretrain",
    "Recogniser": "representation.unknowns",
    "Tap": "representation.tap",
    "TrainedRun": "commands.python",
    "frames_of": "representation.frames",
    "load_classifier": "representation.classifier",
    "load_encoder": "representation.export",
    "load_run": "commands.python",
    "train": "commands.python",
}


class Error(Exception):
    """What this package raises for its user; the message says all and names the mend."""


def __getattr__(name: str) -> Any:
    """Import torch only when a name needs it, so that `import curl_rl` and the command line stay quick."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"curl_rl.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
