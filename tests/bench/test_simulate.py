"""``optimus bench simulate``: the real engine and controller on a simulated machine."""

import json
from dataclasses import replace

import numpy as np
import pytest

from optimus_server.bench.simulate import log, validate, workload
from optimus_server.bench.simulate.recording import DATA, Recording
from optimus_server.bench.simulate.scenarios import (
    STEPS,
    Setting,
    _step_run,
    constant,
    load_step,
    point,
    steeper,
)
from optimus_server.bench.simulate.sustained import serve, sustained
from optimus_server.bench.simulate.world import AR, Arrival, Scheme, World, load_profile
from optimus_server.cli import main
from optimus_server.demo import MODELS
from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url
from tests.store import samples

TABLE = load_profile(DATA / "h100-8b.json")


@pytest.fixture(scope="module", params=["demo", "demo-sdar"])
def setting(request):
    return Setting(recording=Recording.load(DATA / f"{request.param}.npz"), table=TABLE)


# TPF and computed positions per token in the models' cards, over 2,000 prompts decoded for real.
CARDS = {1: {4: (2.01, 1.97), 16: (3.63, 3.94)}, 0: {4: (1.71, 2.29), 16: (3.63, 3.88)}}


@pytest.mark.parametrize("chunk", [4, 16])
def test_a_replay_is_what_was_recorded_and_what_the_real_model_did(setting, chunk):
    recording = setting.recording
    world = World(recording, TABLE, Scheme.fixed(chunk), max_rows=1, noise=0.0)
    steps = recorded = tokens = computed = 0
    for source, (course, offset) in enumerate(zip(recording.courses[chunk], recording.offsets, strict=True)):
        answer, prompt = recording.tokens(source), workload.aligned(recording, 64, source)
        run = world.open([Arrival(0.0, prompt, answer, source)])
        assert sum(step.tokens for step in run.steps) == answer
        steps, tokens = steps + len(run.steps), tokens + answer
        computed += sum(step.positions for step in run.steps) - prompt
        run.steps.clear()
        ranks = np.split(course.rank[: offset + answer], range(32, offset + answer, 32))
        recorded += sum(int(block.max()) + 1 for block in ranks)
    tpf, per_token = CARDS[recording.shift][chunk]
    assert tokens / steps == pytest.approx(tpf, rel=0.1)
    assert computed / tokens == pytest.approx(per_token, rel=0.1)
    if recording.shift:  # else rows that only write KV are steps, too, and are not recorded
        assert steps == pytest.approx(recorded, rel=0.002)


@pytest.mark.parametrize("policy", ["block", "chunk"])
def test_a_prompt_that_is_shared_costs_nothing(setting, policy):
    scheme = Scheme.block(32) if policy == "block" else Scheme.fixed(8)
    world = setting.world(scheme, 4)
    run = world.closed(4, 60, workload.endless(setting.recording, 128, seed=1))
    # Whole blocks compute their part of the prompt every step; chunks none of it.
    assert max(step.positions for step in run.steps[5:]) <= 4 * (64 if policy == "block" else 9)
    assert all(step.tokens for step in run.steps[20:40:5]) or policy == "block"


def test_prompts_that_are_not_shared_are_computed(setting):
    """Each once, as a load with arrivals has them."""
    one = replace(setting, shared=False)
    world = one.world(Scheme.fixed(4), 8)
    run = world.closed(8, 150, one.endless())
    prompts = sum(life.arrival.prompt for life in run.lives if life.first is not None)
    beyond = sum(step.positions for step in run.steps) - prompts
    tokens = sum(step.tokens for step in run.steps)
    assert np.mean([life.arrival.prompt for life in run.lives]) == pytest.approx(128, rel=0.1)
    assert 1.5 < beyond / tokens < 3.5


def test_an_answer_that_is_longer_than_the_recording_goes_round_its_whole_blocks(setting):
    recording = setting.recording
    source = int(np.argmax([recording.tokens(source) for source in range(len(recording.tasks))]))
    block = recording.cycle(source)
    last = (recording.offsets[source] + recording.tokens(source) - 1) // 32
    assert [block(number) for number in range(last + 1)] == list(range(last + 1))
    first, end = -(-recording.offsets[source] // 32), (recording.offsets[source] + recording.tokens(source)) // 32
    assert {block(number) for number in range(last + 1, last + 50)} == set(range(first, end))


def test_step_times_are_the_tables(setting):
    run = World(setting.recording, TABLE, AR, noise=0.0).open([Arrival(0.0, 64, 32, 0)])
    assert run.steps[-1].seconds == pytest.approx(6.18e-3 + 95 * TABLE.per_kv_token)
    assert sum(step.tokens for step in run.steps) == 32


@pytest.mark.parametrize(
    ("task", "batch", "steps", "seeds", "least"),
    [("story", 16, STEPS, 3, 0.98), ("story", 256, 200, 1, 0.98), ("", 32, 200, 1, 1.03)],
)
def test_elastic_is_level_with_the_best_fixed_chunk(setting, task, batch, steps, seeds, least):
    """Hard text, hard text past saturation, and a mixture, where rows of different chunk sizes win."""
    setting = replace(setting, recording=setting.recording.of_tasks([task] if task else []))
    fixed = [Scheme.fixed(chunk) for chunk in (1 + (not setting.recording.shift), 8, 12)]
    ratios = []
    for one in (replace(setting, seed=seed) for seed in range(seeds)):
        elastic = constant(one, Scheme.elastic(), batch, steps)
        ratios.append(elastic.rate / max(constant(one, scheme, batch, steps).rate for scheme in fixed))
        assert elastic.changes <= 1
    assert np.mean(ratios) >= least


@pytest.mark.parametrize(("batch", "least"), [(16, 1.03), (64, 0.99), (256, 0.99)])
def test_elastic_is_level_with_the_best_fixed_chunk_where_prompts_are_computed(setting, batch, least):
    """Commits cost prompt, and that comes in bursts: what explores and what chooses must know both."""
    one = replace(setting, shared=False)
    fixed = [Scheme.fixed(chunk) for chunk in ((12,) if batch == 16 else (1 + (not one.recording.shift), 3, 4))]
    elastic = constant(one, Scheme.elastic(), batch, 300)
    assert elastic.rate >= least * max(constant(one, scheme, batch, 300).rate for scheme in fixed)


def test_fixed_chunk_sizes_near_the_best_are_run_at_length():
    setting = Setting(recording=Recording.load(DATA / "demo.npz").of_tasks(["story"]), table=TABLE)
    found = {one.scheme: one for one in point(setting, 64, 60)}
    best = max((one for name, one in found.items() if name.startswith("chunk")), key=lambda one: one.rate)
    for chunk, steps in ((int(best.scheme[6:]), 60), (32, 10)):
        assert found[f"chunk {chunk}"] == constant(setting, Scheme.fixed(chunk), 64, steps)


def test_all_schemes_meet_the_same_requests_after_a_load_step(setting):
    elastic, fixed = (
        _step_run(setting, scheme, 4, 16, steps=1).lives[-16:] for scheme in (Scheme.elastic(), Scheme.fixed(4))
    )
    assert [life.arrival for life in elastic] == [life.arrival for life in fixed]


def test_shifted_models_end_as_autoregressive_ones():
    setting = Setting(recording=Recording.load(DATA / "demo.npz"), table=TABLE)
    elastic, ar = (constant(setting, scheme, 300, 100) for scheme in (Scheme.elastic(), AR))
    assert elastic.chunk == 1
    assert elastic.rate >= 0.98 * ar.rate


def test_it_settles_when_the_load_jumps(setting):
    found = load_step(setting, 4, 128, steps=60, seeds=1)
    assert found.chunks[0] > found.chunks[-1]
    assert found.steps <= 50


@pytest.mark.parametrize("wrong", [TABLE.scaled(2), TABLE.scaled(0.5), steeper(TABLE, 2)], ids=["x2", "/2", "slope"])
def test_it_heals_from_a_wrong_profile(setting, wrong):
    world = replace(setting, profile=wrong).world(Scheme.elastic(), 32)
    run = world.closed(32, 120, workload.endless(setting.recording, 128, seed=1))
    late = [np.log(step.predicted_s / step.seconds) for step in run.steps[80:]]
    assert abs(np.mean(late)) < 0.05


def test_the_same_seed_is_the_same_simulation(setting):
    first, again = (constant(setting, Scheme.elastic(), 16, 20) for _ in range(2))
    assert first == again
    assert first != constant(replace(setting, seed=1), Scheme.elastic(), 16, 20)


def test_bursts_keep_the_mean_rate_and_the_order(setting):
    calm, bursty = (
        workload.arrivals(setting.recording, 50, 4000, prompt=8, answer=8, bursty=bursty, seed=3)
        for bursty in (False, True)
    )
    at = np.array([arrival.at for arrival in bursty])
    assert (np.diff(at) >= 0).all()
    assert at[-1] == pytest.approx(calm[-1].at, rel=0.1)
    in_bursts = (at % workload.PERIOD_S) < workload.BURST_SHARE * workload.PERIOD_S
    assert in_bursts.mean() == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("scheme", [Scheme.fixed(8), Scheme.elastic()], ids=lambda scheme: scheme.name)
def test_one_step_ahead_is_the_same_work(setting, scheme):
    """Answers are whole; an end costs a step in which its place is empty, and answers take about seven."""
    one = replace(setting, shared=False)
    alone, ahead = (constant(replace(one, ahead=ahead), scheme, 16, 300) for ahead in (False, True))
    assert 0.8 * alone.rate < ahead.rate < alone.rate
    world = replace(one, ahead=True).world(scheme, 8)
    run = world.open([Arrival(0.0, 64, 40 + source, source) for source in range(20)])
    assert [life.tokens for life in run.lives] == [40 + source for source in range(20)]
    assert sum(step.tokens for step in run.steps) == sum(life.tokens for life in run.lives)


def test_too_many_arrivals_are_not_sustained(setting):
    seen = serve(setting, Scheme.block(32), 1000.0, bursty=False, tpot_s=0.05, count=60)
    assert seen.wait_s > 0.5 or seen.tpot_p90_s > 0.05
    found = sustained(setting, Scheme.fixed(32), bursty=False, count=40, rounds=2)
    assert 0 < found.rate < 1000
    assert found.tpot_p90_s <= 0.05


def test_recordings_are_saved_and_loaded(setting, tmp_path):
    stories = setting.recording.of_tasks(["story"])
    stories.save(tmp_path / "stories.npz")
    again = Recording.load(tmp_path / "stories.npz")
    assert set(again.tasks) == {"story"}
    assert again.offsets == stories.offsets
    for chunk, courses in stories.courses.items():
        for one, two in zip(courses, again.courses[chunk], strict=True):
            assert (one.need == two.need).all()
            assert (one.rank == two.rank).all()
            assert one.tokens == two.tokens


def test_the_command_prints_tables_and_writes_figures_and_plots(tmp_path, capsys):
    flags = ["--quick", "--batch", "64", "--context", "128", "2048", "--task", "story", "sort"]
    assert main(["bench", "simulate", *flags, "--json", f"{tmp_path}/all.json", "--plots", f"{tmp_path}/plots"]) == 0
    report = json.loads((tmp_path / "all.json").read_text())
    assert {(p["batch"], p["context"]) for p in report["constant"]} == {(64, 128), (64, 2048)}
    assert {"AR", "block 32", "chunk 1", "chunk 64", "elastic"} <= {p["scheme"] for p in report["constant"]}
    assert (tmp_path / "plots/throughput.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2048 | 64 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--commits", "/nowhere"], "/nowhere is not a recording"),
        (["--profile", "/nowhere"], "/nowhere is not a latency profile"),
        (["--task", "poems"], "no task poems"),
        (["--record", "/nowhere"], "--record needs --out"),
        (["--rate", "9", "--scheme", "chunk 5"], "there is no scheme chunk 5, but AR, block 32"),
    ],
)
def test_what_cannot_be_simulated_is_exit_code_2(capsys, flags, problem):
    assert main(["bench", "simulate", "--quick", *flags]) == 2
    assert problem in capsys.readouterr().err


def test_the_requests_of_a_log_are_served_again(tmp_path, capsys):
    place = f"{tmp_path}/log.db"
    migrate(log_url(place))
    with samples.recording(place) as recorder:
        for number in range(6):
            recorder.submit(samples.request(number, trace=(), prompt_tokens=40, generated_tokens=20 + number))
    assert main(["bench", "simulate", "--from-log", place, "--json", f"{tmp_path}/log.json"]) == 0
    report = json.loads((tmp_path / "log.json").read_text())["served"]
    assert {"AR", "block 32", "chunk 8", "elastic"} <= {point["scheme"] for point in report}
    assert all(point["requests"] == 6 for point in report)
    by_name = {point["scheme"]: point for point in report}
    assert by_name["elastic"]["tpot_s"][0] < by_name["AR"]["tpot_s"][0]
    assert "6 requests of" in capsys.readouterr().out


def test_arrivals_at_a_rate_are_served_once(tmp_path, capsys):
    flags = ["--rate", "2000", "--requests", "300", "--rows", "100", "--answer", "20", "--scheme", "elastic", "AR"]
    for way in ([], ["--bursty"]):
        assert main(["bench", "simulate", *flags, *way, "--json", f"{tmp_path}/served.json"]) == 0
        elastic, ar = json.loads((tmp_path / "served.json").read_text())["served"]
        assert (elastic["scheme"], ar["scheme"], elastic["requests"], ar["requests"]) == ("elastic", "AR", 300, 300)
        assert ar["rate"] < elastic["rate"] < 2000 * 20
        assert ar["most_rows"] == 100
    assert "300 requests of 2000 arrivals a second, in bursts" in capsys.readouterr().out


def test_a_logged_request_takes_after_the_recorded_one_of_its_speed(setting):
    speeds = log._speeds(setting.recording)
    slow, fast = (log.Logged(0.0, 9, 64, 64, "chunk", ((4, advance),) * 20) for advance in (1, 4))
    assert speeds[4][log._nearest(slow, speeds)] < 1.3 < 2 < speeds[4][log._nearest(fast, speeds)]


def test_the_replay_is_close_to_real_decoding_when_chunk_sizes_change(setting):
    """A few short requests; README.md in ``bench`` has the figures of many."""
    name = "demo" if setting.recording.shift else "demo-sdar"
    found = validate.validate(MODELS / name, setting.recording, TABLE, 12)
    others = [one for one in found if not one.stories]
    assert len(others) == len(validate.SCRIPTS)
    assert np.mean([abs(one.error) for one in others]) < 0.1
