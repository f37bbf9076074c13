"""Every test sees eight CPU devices; compiled programs are kept between runs in .jax_cache (not in git)."""

from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
