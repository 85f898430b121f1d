"""What tests of kills share: everything is written after every call, and a call may be the last."""

from kinopt import _checkpoint, _engine


class KilledError(Exception):
    """As far as the folder can tell."""


def write_often(monkeypatch):
    """Everything is written after every call, which is short."""
    monkeypatch.setattr(_checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(_checkpoint, "SHARE", 0)
    monkeypatch.setattr(_engine, "SECONDS_PER_CALL", 0.0)
    monkeypatch.setattr(_engine, "FIRST_ROUNDS", 1)
