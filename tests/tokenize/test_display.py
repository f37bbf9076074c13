import io

from rich.console import Console

from ringvision.tokenize.display import Display, Lines
from ringvision.tokenize.manifest import ManifestRow


def told(progress):
    progress.start(4)
    progress.settled(
        ManifestRow(0, "/videos/old.mp4", "", status="failed", kind="empty", message="old.mp4 is empty"),
        False,
    )
    progress.encoded(40)
    progress.encoded(20)
    progress.settled(ManifestRow(1, "/videos/a.mp4", "", status="done", frames=60), True)
    progress.settled(
        ManifestRow(
            2, "/videos/b.mp4", "", status="failed", kind="damaged", message="b.mp4 is [bold]cut[/bold]"
        ),
        True,
    )


def test_a_terminal_sees_what_is_done_how_fast_and_what_failed():
    screen = io.StringIO()
    with Display(2.0, Console(file=screen, force_terminal=True, width=200)) as display:
        told(display)
        display.began -= 10
        assert display.speed() > 0
        display.settled(ManifestRow(3, "/videos/c.mp4", "", status="done", frames=0), True)
        display.progress.refresh()
    shown = screen.getvalue()
    assert "b.mp4: damaged: b.mp4 is [bold]cut[/bold]" in shown, "what a file is called is no markup"
    assert "old.mp4" not in shown, "it failed in an earlier run"
    assert "4/4" in shown
    assert "60 frames" in shown
    assert "h of video an hour" in shown
    assert "2 failed" in shown
    assert "0:00:00 left" in shown


def test_a_log_is_told_of_new_failures_alone(capsys):
    told(Lines())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "/videos/b.mp4: damaged: b.mp4 is [bold]cut[/bold]\n"
