"""Every test process has eight CPU devices, so that meshes are real.

Most of the suite's time is compilation, so XLA compiles here without LLVM's optimisations and without its
newer emitter of fused loops, in a third of the time: the same programs, only slower to run, which tests of
this size do not notice. Processes that tests start inherit it. With
XLA_FLAGS=--xla_backend_optimization_level=3 in the environment everything is compiled as users have it;
.ci/run does so for a part of the tests. What was compiled is kept for the next run in .jax_cache.
"""

import os
from pathlib import Path

import jax

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

# read when jax makes its devices
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
