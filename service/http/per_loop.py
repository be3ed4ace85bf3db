"""Values of which each event loop has one of its own, such as limits on its threads."""

from collections.abc import Callable
from typing import Generic, TypeVar

from anyio.lowlevel import RunVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A value that is made when an event loop first asks for it, and ends with the loop."""

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        """Declare the value.

        Args:
            name: Shown by a debugger.
            make: Makes the value of a loop.
        """
        self._values: RunVar[T] = RunVar(name)
        self._make = make

    def get(self) -> T:
        """Return the running loop's value."""
        try:
            return self._values.get()
        except LookupError:
            made = self._make()
            self._values.set(made)
            return made
