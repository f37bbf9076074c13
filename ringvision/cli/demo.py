"""`ringvision demo`: the web page, on this machine alone."""

import dataclasses
import importlib.util
from typing import Annotated

from ringvision import shipped
from ringvision.cli.devices import CpuDevices, start_jax
from ringvision.cli.options import CacheDtype, Model
from ringvision.cli.parsing import WHOLE, Command, option
from ringvision.errors import UserError


@dataclasses.dataclass(frozen=True)
class Demo(Command):
    model: Model = None
    port: Annotated[int, WHOLE, option("of this machine", "PORT")] = 7860
    open: Annotated[bool, option("open it in the browser")] = False
    devices: CpuDevices = None
    cache_dtype: CacheDtype = None

    def run(self) -> int:
        start_jax(self.devices)
        spec = importlib.util.spec_from_file_location("ringvision_demo", shipped.folder("demos") / "app.py")
        if spec is None or spec.loader is None:
            raise UserError("demos/app.py is not there; install ringvision again, or run from a checkout")
        app = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(app)
        app.main(self.port, self.model, open_browser=self.open, cache_dtype=self.cache_dtype)
        return 0
