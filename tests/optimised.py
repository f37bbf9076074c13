"""`optimised_jit`: jax.jit for tests of programs as users compile them.

conftest.py turns LLVM's optimisations and the emitter of fused loops off, for the sake of time. What is
compared to the last bit, or held to a bound that half-precision arithmetic must keep, is compiled with both.
"""

from functools import partial

import jax

OPTIMISED = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}

optimised_jit = partial(jax.jit, compiler_options=OPTIMISED)
