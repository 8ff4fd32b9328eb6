"""Several answers to one request: ``n``, ``best_of`` and lists of prompts. Each is an exchange with its own permit."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, aclosing

from starlette.requests import Request

from optimus_server.api.exchange import Exchange, Steps, desk_of
from optimus_server.errors import TooManyPrompts
from optimus_server.text.answer import Token
from optimus_server.text.ask import Ask


def check_count(request: Request, count: int, param: str) -> None:
    """See that there are not too many answers to decode; of many prompts also before anything is made of them.

    Raises:
        TooManyPrompts.
    """
    limit = desk_of(request).prompter.rules.max_choices
    if count > limit:
        raise TooManyPrompts(f"Number of prompts exceeds the maximum allowed batch size of {limit}", param=param)


async def open_choices(
    request: Request, held: ExitStack, request_id: str, asks: Sequence[Ask], began: float
) -> list[Exchange]:
    """The exchanges of all choices of all prompts, in the order of their indices; ``held`` gets the further permits.

    Raises:
        InvalidRequest: see ``Prompter.prompt``; or there are too many.
        Overloaded: there are not enough permits for all.
    """
    desk = desk_of(request)
    found: list[Exchange] = []
    for ask in asks:
        own = held.enter_context(desk.service.permit(f"{request_id}-{len(found)}")) if found else request_id
        first = await Exchange.open(request, own, ask, began)
        name = ask.names.get("inputs", "inputs") if len(asks) > 1 else "n"
        check_count(request, len(asks) * first.prompt.choices, name)
        found.append(first)
        for i in range(1, first.prompt.choices):
            further = held.enter_context(desk.service.permit(f"{request_id}-{len(found)}"))
            found.append(first.choice(i, further))
    return found


def merged(exchanges: Sequence[Exchange]) -> Steps:
    """The tokens of each step of each exchange as they come.

    Raises:
        OptimusError: one of them failed; the others are cancelled.
    """
    # The common case does without a task per step.
    return exchanges[0].tokens() if len(exchanges) == 1 else _interleaved(exchanges)


async def _interleaved(exchanges: Sequence[Exchange]) -> Steps:
    streams = [exchange.tokens() for exchange in exchanges]
    pending = {asyncio.ensure_future(_next(stream)): i for i, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=pending.__getitem__):
                i = pending.pop(task)
                if (step := task.result()) is not None:
                    pending[asyncio.ensure_future(_next(streams[i]))] = i
                    yield step
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def complete(exchanges: Sequence[Exchange]) -> None:
    """Run all to their ends."""
    async with aclosing(merged(exchanges)) as steps:
        async for _ in steps:
            pass


def best_first(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Complete answers, the one with the highest mean log-probability of a token first, as TGI ranks them."""
    return sorted(exchanges, key=lambda exchange: exchange.answer.mean_logprob, reverse=True)


async def _next(stream: Steps) -> tuple[Exchange, list[Token]] | None:
    return await anext(stream, None)
