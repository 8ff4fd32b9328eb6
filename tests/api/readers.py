"""Reads many streams at once, in a process of its own so that its work is not taken for the server's.

    python tests/api/readers.py '{"port": 3000, ...}'    the fields of ``Plan``

keeps so many streams open until the time is up and reads all to their ends. Each must hold its letters, a to z and
again, in order and to the last. The result is a line of JSON: how many streams and events there were, and a histogram
of the events' delays, in tenths of a millisecond.

When each step of the engine ended, and which step was the first of each stream, stands in a file that the engine writes
to, see ``Clock``. An event's time is the kernel's, taken when the server's write reached the socket: how late this
process comes to read it does not count. Of several writes read at once the kernel tells the time of the last, so the
others count as later than they were. Nothing but the standard library is imported, which makes it start at once.
"""

import collections
import json
import mmap
import re
import select
import socket
import string
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SO_TIMESTAMPNS = 35
LETTERS = string.ascii_lowercase.encode()
ENDLESS = LETTERS * 4000
_TIME = struct.Struct("qq")


@dataclass(frozen=True)
class Plan:
    """What to read.

    Attributes:
        path, body: of the requests; ``STEPS`` in the body becomes the number of steps.
        pattern: a regular expression that finds the text of each event.
        seconds: how long to open streams; 0 opens each once.
        shortest, longest: steps of a stream.
        clock: path of the engine's ``Clock``.
    """

    port: int
    path: str
    body: str
    pattern: str
    streams: int
    seconds: float
    shortest: int
    longest: int
    clock: str


class Clock:
    """When each step ended, seconds since 1970, and the first step of each stream: a file that two processes map."""

    def __init__(self, path: str | Path, streams: int = 0, steps: int = 0) -> None:
        if steps:
            Path(path).write_bytes(struct.pack("q", streams) + bytes(8 * (streams + steps)))
        with Path(path).open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0))
        streams = int(self._numbers[:8].cast("q")[0])
        self.began = self._numbers[8 : 8 + 8 * streams].cast("q")
        self.ended = self._numbers[8 + 8 * streams :].cast("d")


class Reader:
    """One stream after the other, all with the same number: ``x-request-id`` is ``s NUMBER - COUNT``."""

    def __init__(self, plan: Plan, number: int, clock: Clock, delays: collections.Counter[int]) -> None:
        self._plan, self._number, self._clock, self._delays = plan, number, clock, delays
        self._find = re.compile(plan.pattern.encode()).findall
        self.streams = self.events = 0

    def open(self) -> socket.socket:
        plan = self._plan
        spread = plan.longest - plan.shortest + 1
        self._steps = plan.shortest + (37 * self._number + 101 * self.streams) % spread
        body = plan.body.replace("STEPS", str(self._steps + 1))
        self.socket = socket.create_connection(("127.0.0.1", plan.port))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.sendall(
            f"POST {plan.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nx-request-id: s{self._number}-{self.streams}\r\n\r\n{body}".encode()
        )
        self.socket.setblocking(False)
        self._rest = b""
        self._seen = 0
        return self.socket

    def read(self) -> bool:
        """Take what is there; False at the end of the stream."""
        piece, stamps, _, _ = self.socket.recvmsg(1 << 18, 64)
        if not piece:
            assert self._seen == self._steps, f"a stream ended after {self._seen} of {self._steps}: {self._rest!r}"
            self.socket.close()
            self.streams += 1
            return False
        data = self._rest + piece
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        self._rest = data[end:]
        if found := b"".join(self._find(data[:end])):
            first = self._seen % 26
            assert found == ENDLESS[first : first + len(found)], f"{found!r} after {self._seen} letters"
            seconds, nanoseconds = _TIME.unpack(stamps[0][2])
            at = self._clock.began[self._number] + self._seen
            for ended in self._clock.ended[at : at + len(found)]:
                self._delays[int((seconds - ended + nanoseconds * 1e-9) * 1e4)] += 1
            self._seen += len(found)
            self.events += len(found)
        return True


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    clock, delays = Clock(plan.clock), collections.Counter[int]()
    readers = [Reader(plan, number, clock, delays) for number in range(plan.streams)]
    waiting, reading = select.epoll(), {}
    for reader in readers:
        reading[reader.open().fileno()] = reader
        waiting.register(reader.socket, select.EPOLLIN)
    deadline = time.monotonic() + plan.seconds
    while reading:
        for file, _ in waiting.poll():
            reader = reading[file]
            if not reader.read():
                del reading[file]
                if time.monotonic() < deadline:
                    reading[reader.open().fileno()] = reader
                    waiting.register(reader.socket, select.EPOLLIN)
    streams, events = sum(reader.streams for reader in readers), sum(reader.events for reader in readers)
    print(json.dumps({"streams": streams, "events": events, "delays": delays, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
