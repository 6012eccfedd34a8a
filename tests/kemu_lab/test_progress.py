"""Progress is for terminals only."""

import io

from kemu_lab import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_where_nobody_looks_nothing_is_drawn(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    with progress.watcher(show=True) as watch:
        watch.update("load", 1, 2, lambda: 1 / 0)

    assert stderr.getvalue() == ""
    assert type(watch) is progress.Watch


def test_a_terminal_sees_phase_share_and_counters(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)
    with progress.watcher(show=True) as watch:
        watch.update("load", 1, 4, lambda: "out 17")

    assert "load" in stderr.getvalue()
    assert "25%" in stderr.getvalue()
    assert "out 17" in stderr.getvalue()


def test_pictures_are_not_drawn_too_often(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 3600)
    asked = []
    with progress.watcher(show=True) as watch:
        watch.drawn = progress.time.monotonic()
        for position in range(100):
            watch.update("load", position, 100, lambda: asked.append(1) or "")

    assert asked == []


def test_quiet_draws_nothing_even_on_a_terminal(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    with progress.watcher(show=False) as watch:
        watch.update("load", 1, 2, lambda: "")

    assert stderr.getvalue() == ""
