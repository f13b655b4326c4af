"""Errors that people can mend are shown as a sentence."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from sarashina_grpo.errors import UserError
from sarashina_grpo.tables import DatasetError


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("raise UserError('lower max_steps')", "UserError: lower max_steps"),
        (
            "raise DatasetError('a text is needed', 'a.csv', 3)",
            "DatasetError: a.csv, row 3: a text",
        ),
    ],
)
def test_ipython_shows_one_sentence_and_no_traceback(
    code: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InteractiveShell(user_ns={"UserError": UserError, "DatasetError": DatasetError})
    result = shell.run_cell(code)
    assert isinstance(result.error_in_exec, UserError)
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(shown)
    assert len(printed.splitlines()) == 1
