"""The TPU's own compiler, without a TPU: libtpu (extra `aot`) compiles for any topology. Without libtpu these
tests are skipped.
"""

import importlib.util
import os
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# libtpu asks a machine's metadata server and takes a lock unless it is told not to; any accelerator type lets
# it describe all topologies
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-8",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("libtpu") is None:
        for item in items:
            if "aot" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="libtpu is not installed: pip install '.[aot]'"))


@pytest.fixture(autouse=True, scope="module")
def _nothing_from_the_cache() -> Iterator[None]:
    """What was compiled for another machine's devices can be kept, but not read back without those
    devices.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # where other tests ran first in this process it is open
    yield
    jax.config.update("jax_enable_compilation_cache", True)
