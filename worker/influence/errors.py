"""Why no sample can be told from the others."""


class IndistinguishableError(ValueError):
    """The samples are too few or too alike. The texts are full sentences, without a sample's text."""

    def __init__(self, message: str, hint: str = "Add samples of other content, or raise training.epochs.") -> None:
        """Say what happened, and what to do next."""
        super().__init__(message)
        self.hint = hint
