"""Every test process has eight CPU devices, so that meshes are real.

Most of the suite's time is compilation, so XLA compiles here without LLVM's optimisations and without its
newer emitter of fused loops, in a third of the time: the same programs, only slower to run, which tests of
this size do not notice. Processes that tests start inherit it. With
XLA_FLAGS=--xla_backend_optimization_level=3 in the environment everything is compiled as users have it;
.ci/run does so for a part of the tests. A program is compiled by one thread, since each core has a worker.

What was compiled is kept in .jax_cache, also the smallest programs: every module begins with none, and most
modules want the same ones. Where a worker reads an entry that another one is writing, it compiles the program
itself (pyproject.toml ignores the warning).

tests/aot takes the TPU's compiler, which ends the process when it is given these flags. So these tests run
only when they are named: `pytest tests/aot`.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
AOT = Path(__file__).parent / "aot"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _names_aot(config: pytest.Config) -> bool:
    named = [Path(config.invocation_params.dir, argument.split("::")[0]) for argument in config.args]
    return any(path.resolve() == AOT or AOT in path.resolve().parents for path in named)


def pytest_configure(config: pytest.Config) -> None:
    """Sets XLA's flags, which are read when jax compiles for the first time."""
    flags = os.environ.get("XLA_FLAGS", "")
    if not _names_aot(config) and "xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves tests/aot out unless it is named."""
    return True if collection_path == AOT and not _names_aot(config) else None


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Every compiled program takes some memory mappings, of which Linux gives a process 65,530: a worker that
    kept those of all modules would come close to that, and end by a segmentation fault where it is reached.
    """
    yield
    jax.clear_caches()
    gc.collect()
