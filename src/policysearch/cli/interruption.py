"""Requests to end: Ctrl-C (INT), TERM and HUP mean the same, and become exit codes 130, 143 and 129. No JAX.

A hang-up that was ignored when the process began (nohup) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: among so many descriptors terminals are looked for: results may have another one than standard output
DESCRIPTORS = 64


class Interrupted(KeyboardInterrupt):
    """A request to end came. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it.

    Example:
        >>> exit_code(Interrupted(signal.SIGTERM)), exit_code(KeyboardInterrupt())
        (143, 130)
    """
    return 128 + int(getattr(error, "number", signal.SIGINT))


@contextlib.contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """While it lasts, `handle` is called with the number of each request; in the main thread, which alone gets them."""
    terminals = [descriptor for descriptor in range(1, DESCRIPTORS) if os.isatty(descriptor)]

    def receive(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave(terminals)
        handle(number)

    before: dict[int, Any] = {}
    try:
        for number in REQUESTS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for request, handler in before.items():
            signal.signal(request, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """While it lasts, a request raises `Interrupted`."""

    def handle(number: int) -> None:
        raise Interrupted(number)

    with handled(handle):
        yield


class Held:
    """While it lasts, requests wait; the first one is raised at its end, unless something else is.

    number: of the first request, 0 while there is none. on_request: called with the number of each, and how many there
    were.

    Example:
        >>> with contextlib.suppress(KeyboardInterrupt), Held() as held:
        ...     signal.raise_signal(signal.SIGINT)
        ...     print("this is finished first")
        this is finished first
    """

    def __init__(self) -> None:
        self.number = self.count = 0
        self.on_request: Callable[[int, int], None] | None = None
        self._scope: contextlib.AbstractContextManager[None] | None = None

    def __enter__(self) -> Held:
        self._scope = handled(self._hold)
        self._scope.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if self._scope is not None:
            self._scope.__exit__(None, None, None)
        if self.number and kind is None:
            raise Interrupted(self.number)

    def _hold(self, number: int) -> None:
        self.number = self.number or number
        self.count += 1
        if self.on_request is not None:
            self.on_request(number, self.count)


def _leave(terminals: list[int]) -> None:
    """Write to nowhere where a terminal was that is gone: what cannot be shown must not keep the rest from its end."""
    for descriptor in terminals:
        if not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
