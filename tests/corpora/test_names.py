"""Names that become files or folders."""

from __future__ import annotations

import pytest

from corpora.files import CorpusError
from corpora.names import check_name, main


@pytest.mark.parametrize("name", ["harness_l", "HL 2", "نموذج", "v1.2-b", "$x$", "a" * 180])
def test_usual_names_pass(name: str):
    assert check_name(name, "upstream") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../../evil",
        "a/b",
        "/etc",
        "a\\b",
        "-rf",
        "=1+1",
        "+a",
        "@a",
        "~root",
        " a",
        "a\n",
        "a\0",
    ]
    + ["a\u200fb", "a\udcff", "ب" * 91, None, 5],
)
def test_names_that_lead_elsewhere_or_cannot_be_files_are_refused(name: object):
    with pytest.raises(CorpusError, match="tag") as error:
        check_name(name, "tag")
    assert len(str(error.value)) < 300


def test_scripts_check_names_too(capsys: pytest.CaptureFixture):
    assert main(["tag=good", "test_set=dev"]) == 0
    assert main(["tag=good", "test_set=../dev"]) == 2
    assert "--test_set '../dev'" in capsys.readouterr().err
