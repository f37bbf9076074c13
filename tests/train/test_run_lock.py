"""A second run in the folder of one that is being trained is refused, and nothing of the first is touched."""

import pytest
from tiny_run import config

from ringvision.errors import UserError
from ringvision.train.loop import train
from ringvision.train.run_lock import alone


def test_one_at_a_time(tmp_path):
    out = tmp_path / "run"
    with alone(out):
        with pytest.raises(UserError, match="another run is being trained in"), alone(out):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(out):
        pass


def test_a_run_is_not_begun_beside_another(data, tmp_path):
    with alone(tmp_path / "run"):
        with pytest.raises(UserError, match="wait for it, stop it"):
            train(config(data, tmp_path / "run"), quiet=True)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), alone(tmp_path / "file" / "run"):
        pass
