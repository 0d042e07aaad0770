"""Being asked to stop: signals become an exception, at a safe place."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REPEAT = 1.0
"""Seconds within which a signal is taken for the one before it."""
RESUBMIT = getattr(signal, "SIGUSR2", signal.SIGTERM)  # Windows has no such signal
"""What submitit has Slurm send before a job's time is over."""


class Interrupted(BaseException):
    """The run was asked to stop by the signal `signum`; like KeyboardInterrupt no `Exception`: a sweep ends, too."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)  # as it is: from another process an exception arrives by its arguments
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class Signals:
    """Turns SIGTERM and Ctrl-C into `Interrupted`: at once, or while `deferred` at the next safe place.

    A second signal does not wait, unless it comes within `REPEAT` of the first: what starts processes (torchrun, a
    terminal) passes on to them the Ctrl-C that they got themselves.

    A handler that the process had for SIGTERM or `RESUBMIT` is not replaced, but called at the safe place, after the
    checkpoint. That of submitit resubmits the job at `RESUBMIT` and lets it go on at SIGTERM, the first warning of a
    preemption; either signal waits for any time, and `RESUBMIT` is never lost behind SIGTERM.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.pending = 0  # the number of the signal that waits
        self._since = 0.0
        self._others: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; in the main thread alone, as Python has it."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, RESUBMIT)}
        self._others = {number: before[number] for number in (signal.SIGTERM, RESUBMIT) if callable(before[number])}
        self.take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Become the only handler (again: Lightning adds one of its own, which stops without a checkpoint)."""
        for number in {signal.SIGTERM, signal.SIGINT, *self._others}:
            signal.signal(number, self._handle)

    def act(self, signum: int) -> None:
        """Do at a safe place what a signal asks for; raises `Interrupted` if the process had no handler for it."""
        self.pending = 0
        if signum not in self._others:
            raise Interrupted(signum)
        self._others[signum](signum, None)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        other = signum in self._others
        if self.deferred and (not self.pending or (other and signum == RESUBMIT)):
            self.pending, self._since = signum, time.monotonic()
        elif not self.deferred or (not other and time.monotonic() - self._since > REPEAT):
            self.act(signum)
