"""Asks a server for more than it has room for, in a process of its own.

    python tests/api/knocking.py PORT RATE SECONDS

sends so many requests a second for so long, whatever becomes of them, and prints as JSON how many were accepted and how
long each refusal took: a 429 with a Retry-After, from the first packet to the kernel's time of the answer, in seconds.
Accepted requests are left at once.
"""

import json
import select
import socket
import struct
import sys
import time

SO_TIMESTAMPNS = 35
BODY = b'{"inputs": "x"}'
REQUEST = (
    b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


def main() -> None:
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    waiting = select.epoll()
    open_: dict[int, tuple[socket.socket, float]] = {}
    refused: list[float] = []
    accepted = sent = 0
    began = time.monotonic()
    while sent < rate * seconds or open_:
        while sent < min(rate * seconds, (time.monotonic() - began) * rate):
            knock = socket.socket()
            knock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            at = time.time()
            knock.connect(("127.0.0.1", port))
            knock.sendall(REQUEST)
            open_[knock.fileno()] = knock, at
            waiting.register(knock, select.EPOLLIN)
            sent += 1
        for file, _ in waiting.poll(0.001):
            knock, at = open_.pop(file)
            answer, stamps, _, _ = knock.recvmsg(1 << 16, 64)
            if answer.startswith(b"HTTP/1.1 429 "):
                assert b"\r\nretry-after: 1\r\n" in answer.lower()
                second, nanosecond = struct.unpack("qq", stamps[0][2])
                refused.append(second - at + nanosecond * 1e-9)
            else:
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                accepted += 1
            knock.close()
    print(json.dumps({"accepted": accepted, "refused": refused}))


if __name__ == "__main__":
    main()
