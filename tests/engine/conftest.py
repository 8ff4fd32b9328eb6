import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Commits, Committed, Failed, Finished, Params, Request
from optimus_server.models.loader import load_model
from tests.tiny import reference_model, tiny_checkpoint


def commits(positions, ids=None):
    """What a model could have committed at ``positions``: zeros, unless ``ids`` says otherwise."""
    positions = np.array(positions, dtype=np.int64)
    ids = np.zeros_like(positions) if ids is None else np.array(ids, dtype=np.int64)
    return Commits(positions, ids, np.full(len(ids), -0.5), valid=True, offered=len(ids))


def candidates(rows):
    """The masks that rows predict, by definition: positions, and the row of each."""
    found = [(position, number) for number, row in enumerate(rows) for position in masks(row)]
    return tuple(np.array(column, dtype=np.int64) for column in zip(*found, strict=True)) or (np.zeros(0, int),) * 2


def masks(row):
    """What the outputs of a row predict, where it is not committed and hangs on no other mask."""
    request = row.request
    for position in range(row.start + request.shift, min(row.stop + request.shift, request.canvas)):
        hangs = request.shift and position % request.block_size == 0 and position != request.frontier
        if position >= request.frontier and not request.committed[position] and not hangs:
            yield position


class Tiny:
    """One tiny checkpoint in float64: as the engine loads it and as transformers does."""

    def __init__(self, path, flavour, block_size):
        tiny_checkpoint(path, flavour, block_size=block_size)
        self.model = load_model(path, dtype=torch.float64)
        self.reference = reference_model(path)
        self.config = self.model.config

    def engine(self, *, pages=64, page_size=8, max_rows=8, prefill_budget=64, recorded=False, ahead=False, **options):
        engine = Engine(
            self.model,
            EngineOptions(
                pages=pages, page_size=page_size, max_rows=max_rows, prefill_budget=prefill_budget, **options
            ),
        )
        engine.runner.ahead = ahead
        if recorded:
            engine.runner.record(max_rows=max_rows, max_positions=200)
        return engine

    def request(self, name, prompt, **params):
        params.setdefault("chunk", 16)
        stop = params.pop("stop_ids", self.config.eos_token_ids)
        return Request(
            name,
            tuple(prompt),
            Params(stop_ids=frozenset(stop), **params),
            block_size=self.config.block_size,
            shift=self.config.logit_shift,
        )


@pytest.fixture(scope="session")
def tiny():
    with tempfile.TemporaryDirectory() as root:

        @functools.cache
        def make(flavour="sdar", block_size=8):
            return Tiny(Path(root) / f"{flavour}-{block_size}", flavour, block_size)

        yield make


def check_alternatives(request, event):
    """Best first, as many as asked for; greedy decoding takes the first, so the two log-probabilities agree."""
    wanted = request.params.top_n
    assert len(event.top) == (len(event.ids) if wanted else 0)
    for token, logprob, best in zip(event.ids, event.logprobs, event.top, strict=True) if wanted else ():
        assert len(best) == wanted
        assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
        if request.params.temperature == 0:
            assert best[0] == (token, pytest.approx(logprob, abs=1e-9))
        elif token in dict(best):
            assert dict(best)[token] == pytest.approx(logprob, abs=1e-9)


def finish(engine, requests, arrivals=None):
    """Run requests to their ends, each added before step ``arrivals[i]``; ids, events by request name.

    Pages and requests are checked after every step, and all must be back at the end.
    """
    arrivals = arrivals or [0] * len(requests)
    pending = sorted(zip(arrivals, range(len(requests)), strict=True))
    answers = {request.id: [] for request in requests}
    by_name = {request.id: request for request in requests}
    ends = {}
    step = 0
    while pending or engine.busy:
        while pending and pending[0][0] <= step:
            engine.add(requests[pending.pop(0)[1]])
        for name, event in engine.step():
            assert name not in ends
            match event:
                case Committed(ids, logprobs):
                    assert len(ids) == len(logprobs) > 0
                    check_alternatives(by_name[name], event)
                    answers[name].extend(ids)
                case Finished() | Failed():
                    ends[name] = event
        engine.check()
        step += 1
        assert step < 5000
    assert engine.pool.available == engine.options.pages
    return answers, ends
