"""The error of an audit whose samples cannot be told apart."""


class IndistinguishableError(ValueError):
    """The samples are too few or too alike for a statistic.

    Message and hint are full sentences that are shown to users, and never hold the text of a sample.
    """

    def __init__(self, message: str, hint: str = "Add samples of other content, or raise training.epochs.") -> None:
        """Say what happened, and what to do next.

        Args:
            message: What happened.
            hint: What the user can change.
        """
        super().__init__(message)
        self.hint = hint
