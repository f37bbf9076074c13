"""`quick_jit`: jax.jit for tests that compile many programs and run each of them once.

XLA compiles five times as fast without LLVM's optimizations and its newer emitter of fused loops. The program
is the same up to the generation of machine code, so bounds need not be looser; beside the tests that use this
stand others of the same functions, compiled as users compile them.
"""

from functools import partial

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

quick_jit = partial(jax.jit, compiler_options=QUICK)
