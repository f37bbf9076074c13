"""What lmms-eval asks the entry point `lmms_eval.models` for: under which name our model is known to it. It
does so whenever it starts, so nothing heavy is imported here.
"""

from typing import Any


def manifest() -> Any:
    """A ModelManifest of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    where = "ringvision.evaluate.lmms_eval_plugin.RingVision"
    return ModelManifest("ringvision", simple_class_path=where)
