"""Being asked to stop: signals become an exception, at a safe place."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT = 1.0
"""Seconds within which a signal is taken for the one before it."""


class Interrupted(BaseException):
    """The run was asked to stop by SIGTERM or Ctrl-C; like KeyboardInterrupt no `Exception`, so that a sweep ends too.

    Attributes:
        signum: the signal's number; a shell's exit code for it is 128 more.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Signals:
    """Turns SIGTERM and Ctrl-C into `Interrupted`: at once, or while `deferred` at the next safe place.

    A second signal does not wait, unless it comes within `REPEAT` of the first: what starts processes (torchrun, a
    terminal) passes on to them the Ctrl-C that they got themselves.

    Attributes:
        deferred: whether the first signal waits.
        pending: the number of the signal that waits, or 0.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.pending = 0
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals inside the block; in the main thread alone, as Python has it."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Become the only handler (again: Lightning adds one of its own, which stops without a checkpoint)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.deferred and not self.pending:
            self.pending, self._since = signum, time.monotonic()
        elif not self.deferred or time.monotonic() - self._since > REPEAT:
            raise Interrupted(signum)
