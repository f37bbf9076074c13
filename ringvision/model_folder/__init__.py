"""A model folder: config.json and safetensors, written and read tensor by tensor.

files.py    which files it consists of
writer.py   arrays -> folder
reader.py   folder -> arrays, or straight onto devices
knows.py    what config.json says that the model was trained for
"""

from ringvision.model_folder.files import (
    CONFIG_FILE,
    INDEX_FILE,
    MAX_FILE,
    WEIGHTS_FILE,
    Spec,
    check_room,
    licence_files,
    own_files,
    sync,
    weight_files,
    weight_names,
)
from ringvision.model_folder.knows import Knows
from ringvision.model_folder.reader import (
    ModelReader,
    check_specs,
    load_model,
    load_params,
    read_config,
    specs,
)
from ringvision.model_folder.writer import ModelWriter, save_model

__all__ = [
    "CONFIG_FILE",
    "INDEX_FILE",
    "MAX_FILE",
    "WEIGHTS_FILE",
    "Knows",
    "ModelReader",
    "ModelWriter",
    "Spec",
    "check_room",
    "check_specs",
    "licence_files",
    "load_model",
    "load_params",
    "own_files",
    "read_config",
    "save_model",
    "specs",
    "sync",
    "weight_files",
    "weight_names",
]
