"""The engine against the truth: `block` equals the naive decoder token for token, whatever it is batched with."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from optimus_server.engine.request import POLICIES, UNMASK_RULES
from optimus_server.engine.sampling import uniform
from tests.engine.conftest import finish
from tests.naive import naive_ar, naive_block
from tests.tiny import MASK_ID, VOCAB

slow = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def prompts(rng, count, longest=60):
    """Random prompts, about half of which begin like another one; the mask id is an ordinary token."""
    found = []
    for _ in range(count):
        prompt = rng.integers(0, VOCAB, rng.integers(1, longest)).tolist()
        if found and rng.random() < 0.5:
            other = found[rng.integers(len(found))]
            prompt = (other[: rng.integers(len(other) + 1)] + prompt)[:longest]
        found.append(prompt)
    return found


def params(rng, policy="block"):
    rule = UNMASK_RULES[rng.integers(len(UNMASK_RULES))]
    return {
        "policy": policy,
        "chunk": int(rng.integers(1, 17)),
        "max_new_tokens": int(rng.integers(1, 40)),
        "unmask": rule,
        "threshold": float(rng.choice([0.3, 0.9])),
        "transfer": int(rng.integers(1, 4)),
        "entropy_bound": float(rng.choice([0.35, 2.0])),
        "temperature": float(rng.choice([0, 0, 0.8])),
        "repetition_penalty": float(rng.choice([1, 1, 1.3, 0.8])),
        "frequency_penalty": float(rng.choice([0, 0, 0.5, -1.5])),
        "presence_penalty": float(rng.choice([0, 0, 1.0])),
        "top_n": int(rng.choice([0, 0, 2, 5])),
        "seed": int(rng.integers(2**63)),
    }


def truth(model, prompt, p):
    def draw(probs, step, position):
        """Inverse of the cumulative distribution at the engine's own noise."""
        u = float(uniform(*(torch.tensor(x) for x in (p["seed"], step, position))))
        cumulative = probs.cumsum(0)
        return min(int((cumulative <= u * cumulative[-1]).sum()), len(probs) - 1)

    return naive_block(
        model.reference,
        prompt,
        block_size=model.config.block_size,
        mask_id=MASK_ID,
        shift=model.config.logit_shift,
        max_new_tokens=p["max_new_tokens"],
        eos_ids=model.config.eos_token_ids,
        rule=p["unmask"],
        threshold=p["threshold"],
        transfer=p["transfer"],
        entropy_bound=p["entropy_bound"],
        temperature=p["temperature"],
        repetition=p["repetition_penalty"],
        frequency=p["frequency_penalty"],
        presence=p["presence_penalty"],
        draw=draw,
    )


@given(
    seed=st.integers(0, 2**32),
    flavour=st.sampled_from(["sdar", "sdar_shift"]),
    block_size=st.sampled_from([4, 8]),
    page_size=st.sampled_from([4, 8, 12, 16]),
    share=st.booleans(),
    roomy=st.booleans(),
    recorded=st.booleans(),
    ahead=st.booleans(),
)
@slow
def test_block_equals_naive(tiny, seed, flavour, block_size, page_size, share, roomy, recorded, ahead):
    rng = np.random.default_rng(seed)
    model = tiny(flavour, block_size)
    batch = prompts(rng, 6)
    chosen = [params(rng) for _ in batch]
    engine = model.engine(
        pages=(800 if roomy else 128) // page_size,
        page_size=page_size,
        max_rows=int(rng.integers(1, 7)),
        prefill_budget=int(rng.integers(8, 64)),
        share_prefix=share,
        recorded=recorded,
        ahead=ahead,
    )
    requests = [model.request(str(i), batch[i], **chosen[i]) for i in range(len(batch))]
    answers, ends = finish(engine, requests, rng.integers(0, 20, len(batch)).tolist())
    for i, prompt in enumerate(batch):
        expected, steps = truth(model, prompt, chosen[i])
        assert answers[str(i)] == expected
        assert ends[str(i)].usage.steps == steps


def test_the_pool_of_that_test_does_preempt_and_share(tiny):
    model = tiny("sdar", 8)
    rng = np.random.default_rng(5)
    batch = [rng.integers(0, 70, 40).tolist()] * 3 + [rng.integers(0, 70, 30).tolist() for _ in range(3)]
    options = {"policy": "block", "max_new_tokens": 40, "stop_ids": ()}
    requests = [model.request(str(i), prompt, **options) for i, prompt in enumerate(batch)]
    engine = model.engine(pages=16, page_size=8)
    answers, ends = finish(engine, requests, [0, 3, 6, 9, 12, 15])
    assert sum(request.preemptions for request in requests) > 0
    assert sum(end.usage.prefix_hit_tokens for end in ends.values()) > 0
    assert answers["0"] == answers["1"] == answers["2"]


@pytest.mark.parametrize("flavour", ["sdar", "sdar_shift"])
@pytest.mark.parametrize("policy", POLICIES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_solo_equals_batched(tiny, flavour, policy, seed):
    rng = np.random.default_rng(seed)
    model = tiny(flavour, 8)
    batch = prompts(rng, 5)
    chosen = [params(rng, policy) for _ in batch]

    def requests():
        return [model.request(str(i), batch[i], **chosen[i]) for i in range(len(batch))]

    together, _ = finish(
        model.engine(pages=100, prefill_budget=int(rng.integers(8, 64))),
        requests(),
        rng.integers(0, 9, len(batch)).tolist(),
    )
    for request in requests():
        alone, _ = finish(model.engine(pages=100, prefill_budget=512), [request])
        assert alone[request.id] == together[request.id]


def least_room(turns):
    """Positions for what is known, and for one row at least; masks for all."""
    widths = [turn.row.width for turn in turns]
    known = sum(turn.row.width for turn in turns if turn.exact)
    return max([known, *widths]), sum(widths)


@pytest.mark.parametrize("flavour", ["sdar", "sdar_shift"])
@pytest.mark.parametrize("policy", POLICIES)
@given(seed=st.integers(0, 2**32), recorded=st.booleans())
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_going_ahead_changes_no_answer(tiny, flavour, policy, seed, recorded):
    """Steps that are launched before the one before is over commit the same, also where their room is too small."""
    model = tiny(flavour, 8)
    told = []
    for ahead in (False, True):
        rng = np.random.default_rng(seed)
        batch = prompts(rng, 7, longest=40)
        chosen = [params(rng, policy) for _ in batch]
        if seed % 3:
            # Some requests keep the engine from going ahead as long as they are there.
            for p in chosen:
                p |= {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
        engine = model.engine(
            pages=100, max_rows=int(rng.integers(1, 7)), prefill_budget=int(rng.integers(8, 40)), ahead=ahead,
            recorded=recorded,
        )  # fmt: skip
        if seed % 2:
            engine.scheduler.forecast.room = least_room
        requests = [model.request(str(i), batch[i], **chosen[i]) for i in range(len(batch))]
        told.append(finish(engine, requests, rng.integers(0, 20, len(batch)).tolist()))
    assert told[0][0] == told[1][0]
    for name, end in told[0][1].items():
        assert end.usage.steps == told[1][1][name].usage.steps


@pytest.mark.parametrize("flavour", ["sdar", "sdar_shift"])
def test_a_wide_chunk_equals_block_for_the_first_two_forwards(tiny, flavour):
    """KV of a prefix becomes final one forward after its commit, so a third forward may differ; two cannot."""
    model = tiny(flavour, 8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompt = rng.integers(0, 70, 16).tolist()
        seen = []
        for policy in ("block", "chunk"):
            engine = model.engine()
            request = model.request("r", prompt, policy=policy, chunk=16, max_new_tokens=8, stop_ids=())
            engine.add(request)
            for _ in range(2):
                if engine.busy:
                    engine.step()
            first = slice(16, 24)
            seen.append((request.committed[first].tolist(), (request.tokens * request.committed)[first].tolist()))
        assert seen[0] == seen[1]


def test_autoregressive_models_run_in_the_same_loop(tiny):
    model = tiny("qwen3", 1)
    rng = np.random.default_rng(1)
    batch = prompts(rng, 50, longest=30)
    new = rng.integers(1, 24, 50).tolist()
    requests = [
        model.request(str(i), batch[i], max_new_tokens=new[i], policy=POLICIES[i % len(POLICIES)], chunk=8)
        for i in range(50)
    ]
    engine = model.engine(pages=40, prefill_budget=16)
    answers, ends = finish(engine, requests, rng.integers(0, 60, 50).tolist())
    for i, prompt in enumerate(batch):
        expected = naive_ar(model.reference, prompt, max_new_tokens=new[i], eos_ids=model.config.eos_token_ids)
        ids = torch.tensor([prompt])
        generated = model.reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new[i], do_sample=False, pad_token_id=0
        )
        assert generated[0, len(prompt) :].tolist() == expected
        assert answers[str(i)] == expected
        usage = ends[str(i)].usage
        assert usage.steps == len(expected)
