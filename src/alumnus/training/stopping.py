"""Stopping a run from outside: SIGTERM and SIGUSR1 save its state and end it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "stop_on_signals"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what clusters send before they take the machine away


class StopRequest:
    """Whether a signal has come; call it to ask."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def stop_on_signals(*, also_after_errors: bool = False) -> Iterator[StopRequest]:
    """Take note of signals, within the block; a repeated one changes nothing.

    Clusters send one to every process, and torchrun sends its own after it. Only in the main
    thread of this process: data workers, which inherit the handlers when they are forked, end
    as usual. `also_after_errors` is for one process of several: where one dies, torchrun ends
    the others while they still say why, so signals stay without effect when an error leaves
    the block.
    """
    request, owner = StopRequest(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            request.signal = signal.Signals(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    restore = True
    try:
        yield request
    except BaseException:
        restore = not also_after_errors
        raise
    finally:
        if restore:
            for number, handler in before.items():
                signal.signal(number, handler)
