"""S3PRL is imported without a word and without the network."""

from __future__ import annotations

import socket

import pytest

from downstream.quiet import quiet


def test_nothing_is_said_or_fetched_and_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    import nltk

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = nltk.download
    with pytest.raises(KeyError), quiet():
        print("deprecated")
        assert nltk.download("cmudict") is False
        raise KeyError
    assert nltk.download is before
    assert capsys.readouterr() == ("", "")
