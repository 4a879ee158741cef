"""Make utterance and speaker ids from a publisher's names, so that both sort in one order, as Kaldi requires."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_BELOW_DOT = re.compile(r"[\s!-\-]")  # ASCII from the space to the hyphen


def safe_id(name: str) -> str:
    """A publisher's name as a part of an id: ASCII letters and digits, dots and underscores.

    A changed name ends in six digits of a hash, so that different names stay different. The result has no "-", which
    joins the parts of an id and sorts before these characters: utterances keep the order of their speakers.
    """
    clean = re.sub(r"[^0-9A-Za-z._]+", "_", name)
    if clean == name:
        return name
    return f"{clean.strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("_")


def name_utterances(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(speaker, utterance) in a publisher's names -> (utterance id, speaker id).

    An utterance keeps its name if it begins with the speaker's name and the order is right. The order is wrong where
    one speaker's name is the beginning of another's (`ab_1` and `ab-c_1`). Then characters that sort below a full stop
    become `~` in speakers' names, and a hyphen joins these to the utterances' names. White space becomes `_`.
    """
    plain = {pair: ("_".join(pair[0].split()), "_".join(pair[1].split())) for pair in sorted(set(pairs))}
    names = {
        pair: (own if own.startswith(speaker) else f"{speaker}-{own}", speaker)
        for pair, (speaker, own) in plain.items()
    }
    speakers = [speaker for _, speaker in sorted(names.values())]
    if speakers == sorted(speakers):
        return names
    safe = {pair: (_BELOW_DOT.sub("~", speaker), own) for pair, (speaker, own) in plain.items()}
    return {pair: (f"{speaker}-{own}", speaker) for pair, (speaker, own) in safe.items()}
