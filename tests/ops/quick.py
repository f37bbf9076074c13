"""`quick_jit`: jax.jit for tests that compile many programs and run each of them once.

XLA compiles five times as fast without LLVM's optimizations and its newer emitter of fused loops. The program
is the same up to the generation of machine code; what is compiled as users compile it is tested beside this
in tests/ops (the tests that call ring_attention outside jit, or say so) and in tests/models.
"""

from functools import partial

import jax

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

quick_jit = partial(jax.jit, compiler_options=QUICK)
