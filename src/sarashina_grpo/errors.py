"""What all errors that people can mend have in common."""


class UserError(ValueError):
    """Something to change, said in a sentence: a notebook shows that, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of the calls that led here."""
        return [f"{type(self).__name__}: {self}"]


class SettingError(UserError):
    """A value that cannot be used; names it, and what is accepted."""
