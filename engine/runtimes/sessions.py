"""The loaded copies of a model that a runtime has, each lent to one run at a time."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from threading import Condition
from typing import Generic, TypeVar

from engine.errors import InferenceError

Session = TypeVar("Session")


class Sessions(Generic[Session]):
    """A vendor library's sessions, at least one: who runs borrows one, and waits while all are lent.

    The one that came back last is lent first: its memory is warm. A session that allows several runs at once may be
    given several times.

    >>> sessions = Sessions(["first", "second"])
    >>> with sessions.lend() as one, sessions.lend() as other:
    ...     sorted([one, other])
    ['first', 'second']
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._free = [*sessions]
        self._changed = Condition()
        self._closed = False

    @contextmanager
    def lend(self) -> Generator[Session]:
        """Borrow a session for one run; InferenceError if they are closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise InferenceError("the runtime is closed: open it again")
            session = self._free.pop()
        try:
            yield session
        finally:
            with self._changed:
                if not self._closed:
                    self._free.append(session)
                self._changed.notify()

    def close(self) -> None:
        """Forget the sessions; one that is lent goes when its run has ended. Calling it twice is harmless."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()
