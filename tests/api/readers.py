"""Reads many streams at once, in a process of its own so that its work is not taken for the server's.

    python tests/api/readers.py PORT PATH BODY PATTERN STREAMS

opens so many streams at once, each with an ``x-request-id`` of its own, ``s0``, ``s1``, ..., and reads all to their
ends. ``PATTERN`` is a regular expression that finds the text of each event. For each stream it writes to its standard
output

    int64    events
    uint8    their texts, one character each
    float64  when each arrived, seconds since 1970

An event's time is the kernel's, taken when the server's write reached the socket: how late this process comes to read
it does not count. Of several writes read at once the kernel tells the time of the last, so the others count as later
than they were. Nothing but the standard library is imported, which makes it start at once.
"""

import array
import re
import select
import socket
import struct
import sys
import time

SO_TIMESTAMPNS = 35
_TIME = struct.Struct("qq")


class Reader:
    """One stream."""

    def __init__(self, port: int, request: bytes, pattern: re.Pattern[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.sendall(request)
        self.socket.setblocking(False)
        self.texts = bytearray()
        self.times = array.array("d")
        self._find = pattern.findall
        self._rest = b""

    def read(self) -> bool:
        """Take what is there; False at the end of the stream."""
        piece, stamps, _, _ = self.socket.recvmsg(1 << 18, 64)
        if not piece:
            return False
        seconds, nanoseconds = _TIME.unpack(stamps[0][2])
        data = self._rest + piece
        end = data.rfind(b"\n\n") + 2
        self._rest = data[end:]
        found = b"".join(self._find(data[:end]))
        self.texts += found
        self.times.extend((seconds + nanoseconds / 1e9,) * len(found))
        return True


def main() -> None:
    port, path, body, pattern, streams = sys.argv[1:]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body.encode())}\r\nx-request-id: s%d\r\n\r\n{body}"
    compiled = re.compile(pattern.encode())
    readers = [Reader(int(port), (head % i).encode(), compiled) for i in range(int(streams))]
    waiting = select.epoll()
    by_number = {reader.socket.fileno(): reader for reader in readers}
    for number in by_number:
        waiting.register(number, select.EPOLLIN)
    left = len(readers)
    while left:
        for number, _ in waiting.poll():
            if not by_number[number].read():
                waiting.unregister(number)
                left -= 1
    print(f"reading took {time.process_time():.1f} s of CPU", file=sys.stderr)
    for reader in readers:
        sys.stdout.buffer.write(struct.pack("q", len(reader.times)) + reader.texts + reader.times.tobytes())


if __name__ == "__main__":
    main()
