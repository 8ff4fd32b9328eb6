"""Who sees whom, what is predicted from where, and that no answer leaks into its own prediction."""

import pytest
import torch

from optimus_server.demo.attention import TILE, TiledMasks
from optimus_server.demo.corpus import BLOCK, MASKABLE, TARGET
from optimus_server.demo.network import Network
from optimus_server.demo.objective import Noise, autoregressive, block_diffusion
from optimus_server.demo.plan import Shape
from optimus_server.demo.tokenizer import MASK

COUNT, LENGTH = 3, 128
TOTAL = COUNT * LENGTH
NOISES = [
    Noise(shift=0, cut=0, small=0),
    Noise(shift=1, cut=0, small=0),
    Noise(shift=0),
    Noise(shift=1),
    Noise(shift=0, cut=1.0, small=0),
    Noise(shift=1, cut=1.0, small=0),
    Noise(shift=1, cut=0, small=1.0, sizes=(1,)),
    Noise(shift=0, cut=0, small=1.0, sizes=(4,)),
]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(13, 1024, (COUNT, LENGTH), generator=generator)
    roles = torch.randint(0, 3, (COUNT, LENGTH), generator=generator)
    return ids, roles


def work_of(batch, noise, seed=1):
    return block_diffusion(*batch, noise, torch.Generator().manual_seed(seed))


def test_autoregressive_is_causal(batch):
    work = autoregressive(*batch)
    where = torch.arange(TOTAL)
    same = where[:, None] // LENGTH == where[None] // LENGTH
    assert (work.spans.dense() == (same & (where[None] <= where[:, None]))).all()
    assert (work.source[1:] == where[:-1]).all()
    assert (work.weights > 0).equal((batch[1].flatten() >= TARGET) & (where % LENGTH > 0))
    assert work.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("noise", [n for n in NOISES if not n.cut and not n.small], ids=str)
def test_block_diffusion_sees_what_the_rule_says(batch, noise):
    """Brute force: noisy block i sees itself and clean blocks before it; clean block i clean blocks up to itself."""
    seen = work_of(batch, noise).spans.dense()
    for query in range(0, 2 * TOTAL, 7):
        sequence, place = divmod(query % TOTAL, LENGTH)
        block = place // BLOCK
        wanted = torch.zeros(2 * TOTAL, dtype=torch.bool)
        for key in range(2 * TOTAL):
            key_sequence, key_place = divmod(key % TOTAL, LENGTH)
            key_block, clean_key = key_place // BLOCK, key >= TOTAL
            if query >= TOTAL:
                sees = clean_key and key_block <= block
            else:
                sees = key_block < block if clean_key else key_block == block
            wanted[key] = sees and key_sequence == sequence
        assert seen[query].equal(wanted), query


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_every_mask_is_within_its_sequence_and_not_ahead(batch, noise):
    """Whatever is cut or small: nothing sees another sequence, a later block of 32, or a noisy copy from the clean."""
    query, key = work_of(batch, noise).spans.dense().nonzero(as_tuple=True)
    assert (query % TOTAL // LENGTH == key % TOTAL // LENGTH).all()
    assert (query % LENGTH // BLOCK >= key % LENGTH // BLOCK).all()
    assert not ((query >= TOTAL) & (key < TOTAL)).any()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_no_target_reaches_its_own_prediction(batch, noise):
    """Changing the true token of a position with loss must not change the output that predicts it."""
    torch.manual_seed(0)
    net = Network(Shape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=32)).double()
    net.initialise(0)
    work = work_of(batch, noise)
    before = net(work.ids, work.positions, work.spans.dense())[work.source]
    with_loss = (work.weights > 0).nonzero().flatten()
    assert len(with_loss) > 8
    for place in with_loss[:: max(1, len(with_loss) // 12)].tolist():
        ids = batch[0].clone()
        ids.view(-1)[place] = 13 + (ids.view(-1)[place] - 12) % 1000
        changed = work_of((ids, batch[1]), noise)
        after = net(changed.ids, changed.positions, changed.spans.dense())[changed.source]
        assert changed.targets[place] != work.targets[place]
        assert after[place].equal(before[place])


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_loss_is_on_masked_answers_only(batch, noise):
    work = work_of(batch, noise)
    roles, place = batch[1].flatten(), torch.arange(TOTAL) % LENGTH
    with_loss = work.weights > 0
    assert (roles[with_loss] == MASKABLE).all()
    noisy = work.ids[:TOTAL]
    assert (noisy[roles != MASKABLE] == batch[0].flatten()[roles != MASKABLE]).all(), "context is never masked"
    if not noise.shift:
        assert (noisy[with_loss] == MASK).all()
        assert work.source.equal(torch.arange(TOTAL))
    else:
        source = work.source[with_loss]
        assert (source % LENGTH == place[with_loss] - 1).all()
        if not noise.small:
            assert (source >= TOTAL).equal(place[with_loss] % BLOCK == 0), "the clean copy predicts first positions"


@pytest.mark.parametrize(("length", "copies"), [(128, 1), (256, 1), (128, 2), (384, 2)])
def test_tile_tables_cover_the_spans(length, copies):
    """Every visible pair lies in a listed tile, and tiles listed as full are."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(13, 1024, (2, length), generator=generator)
    roles = torch.full_like(ids, MASKABLE)
    work = autoregressive(ids, roles) if copies == 1 else block_diffusion(ids, roles, Noise(1), generator)
    mask = TiledMasks(work.ids.numel(), torch.device("cpu")).mask(work.spans, length, copies)
    tiles = work.ids.numel() // TILE
    pairs = work.spans.dense().view(tiles, TILE, tiles, TILE)
    listed, full = torch.zeros(tiles, tiles, dtype=torch.bool), torch.zeros(tiles, tiles, dtype=torch.bool)
    for row in range(tiles):
        listed[row, mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].long()] = True
        full[row, mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].long()] = True
    assert not (listed & full).any()
    assert not (pairs.any(3).any(1) & ~(listed | full)).any()
    assert not (full & ~pairs.all(3).all(1)).any()
