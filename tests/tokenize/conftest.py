import av
import numpy as np
import pytest


@pytest.fixture
def film():
    """Writes two seconds of slowly changing colours at 4 frames a second."""

    def write(path, seed):
        colours = np.random.default_rng(seed).integers(0, 256, (8, 4, 4, 3), np.uint8)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=4, options={"threads": "1", "preset": "ultrafast"})
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for picture in colours.repeat(16, 1).repeat(16, 2):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())

    return write
