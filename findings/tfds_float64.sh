#!/usr/bin/env bash
# tensorflow-datasets 4.9.10 without TensorFlow: float64 features, scalars and tensors of any shape, are stored as
# float32 and come back as float64 with the rounded value. Only a tensor with encoding="bytes" is exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow-datasets==4.9.10 importlib_resources==7.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tensorflow_datasets as tfds

SECONDS = 16_777_217.0  # 2**24 + 1: the first whole number that float32 does not hold
features = tfds.features.FeaturesDict(
    {
        "scalar": tfds.features.Scalar(np.float64),
        "fixed": tfds.features.Tensor(shape=(1,), dtype=np.float64),
        "any_length": tfds.features.Tensor(shape=(None,), dtype=np.float64),
        "bytes": tfds.features.Tensor(shape=(1,), dtype=np.float64, encoding="bytes"),
    }
)
values = {"scalar": SECONDS, "fixed": np.array([SECONDS]), "any_length": np.array([SECONDS]), "bytes": np.array([SECONDS])}
serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
back = features.deserialize_example_np(serializer.serialize_example(features.encode_example(values)))
print("tensorflow-datasets", tfds.__version__)
for name, value in back.items():
    print(f"{name:10} written {SECONDS:.0f}, read {float(np.ravel(value)[0]):.0f} as {np.asarray(value).dtype}")
assert all(np.asarray(value).dtype == np.float64 for value in back.values()), "changed: another dtype comes back"
assert float(back["scalar"]) == SECONDS - 1, "changed: the scalar"
assert float(back["fixed"][0]) == SECONDS - 1, "changed: the tensor of known shape"
assert float(back["any_length"][0]) == SECONDS - 1, "changed: the tensor of unknown length"
assert float(back["bytes"][0]) == SECONDS, "changed: the tensor kept as bytes"
print("as found: three of the four say float64 and hold a float32's value")
PYTHON
