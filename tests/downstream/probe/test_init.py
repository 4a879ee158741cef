"""S3PRL is imported without output and without the network."""

from __future__ import annotations

import socket

import pytest

from downstream.probe import quiet_import


def test_output_and_downloads_are_blocked_inside_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    import nltk

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = nltk.download
    with pytest.raises(KeyError), quiet_import():
        print("deprecated")
        assert nltk.download("cmudict") is False
        raise KeyError
    assert nltk.download is before
    assert capsys.readouterr() == ("", "")
