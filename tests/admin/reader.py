"""Readers of the live page's stream in a process of their own, which imports nothing large; ``prove.py`` starts it."""

import asyncio
import sys
from urllib.parse import urlsplit


async def read(url: str) -> None:
    """Obey the lines of the input, and answer each with the bytes received since the last change."""
    place = urlsplit(url)
    counted = 0
    tasks: list[asyncio.Task[None]] = []

    async def one() -> None:
        nonlocal counted
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"GET /admin/events HTTP/1.1\r\nhost: {place.netloc}\r\n\r\n".encode())
        try:
            while data := await reader.read(1 << 16):
                counted += len(data)
        finally:
            writer.close()

    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.startswith("open"):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            tasks = [asyncio.create_task(one()) for _ in range(int(line.split()[1]))]
            counted = 0
        print(counted, flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(read(sys.argv[1]))
