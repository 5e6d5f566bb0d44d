"""Schedules against their formulas; which image comes when: a function of (seed, step) alone."""

import math

import numpy as np
import pytest

from byol.schedules import Schedule, epoch_order, lr_at, positions_at, tau_at


def test_tau_follows_the_papers_cosine():
    assert tau_at(0, 1000, 0.99) == pytest.approx(0.99)
    assert tau_at(1000, 1000, 0.99) == pytest.approx(1.0)
    assert tau_at(500, 1000, 0.99) == pytest.approx(0.995)
    for k in (1, 123, 999):
        expected = 1 - (1 - 0.996) * (math.cos(math.pi * k / 1000) + 1) / 2
        assert tau_at(k, 1000, 0.996) == pytest.approx(expected)


def test_lr_warms_up_linearly_and_falls_by_a_cosine():
    assert [lr_at(k, 100, 10, 2.0) for k in (0, 5, 10)] == pytest.approx([0.0, 1.0, 2.0])
    assert lr_at(55, 100, 10, 2.0) == pytest.approx(1.0)
    assert lr_at(100, 100, 10, 2.0) == pytest.approx(0.0)
    assert lr_at(0, 100, 0, 2.0) == pytest.approx(2.0)
    falling = [lr_at(k, 100, 10, 2.0) for k in range(10, 101)]
    assert falling == sorted(falling, reverse=True)


def test_the_encoder_waits_for_the_heads_and_warms_up():
    """Ten steps an epoch: 20 for the heads, then 10 of warm-up; without heads' epochs as ever."""
    schedule = Schedule(100, 10, 8, 1.0, 2.0, 0, head_epochs=2.0)
    scales = [schedule.encoder_scale(step) for step in range(80)]
    assert scales[:20] == [0.0] * 20
    assert scales[20:30] == pytest.approx([k / 10 for k in range(10)])
    assert scales[30:] == [1.0] * 50
    at_once = Schedule(100, 10, 8, 0.0, 2.0, 0, head_epochs=2.0)
    assert [at_once.encoder_scale(step) for step in (19, 20)] == [0.0, 1.0]
    short = Schedule(100, 10, 1, 0.0, 2.0, 0, head_epochs=2.0)
    assert short.head_steps == 5  # half of a run at most


def test_an_epoch_shows_each_image_once_and_drops_the_rest():
    seen = np.concatenate([positions_at(step, 23, 5, seed=1) for step in range(4)])
    assert len(seen) == 20
    assert len(set(seen.tolist())) == 20
    following = np.concatenate([positions_at(step, 23, 5, seed=1) for step in range(4, 8)])
    assert seen.tolist() != following.tolist()


def test_the_order_depends_on_seed_and_step_only():
    expected = [positions_at(step, 23, 5, seed=1).tolist() for step in range(12)]
    assert [positions_at(s, 23, 5, seed=1).tolist() for s in reversed(range(12))] == expected[::-1]
    assert positions_at(0, 23, 5, seed=2).tolist() != expected[0]


def test_a_schedule_follows_from_epochs_and_batch():
    schedule = Schedule(103, 10, epochs=6, warmup_epochs=1.5, peak_lr=0.4, seed=3, tau0=0.9)
    assert (schedule.steps_per_epoch, schedule.total_steps, schedule.warmup_steps) == (10, 60, 15)
    assert [schedule.lr(step) for step in (0, 3, 15, 60)] == pytest.approx([0, 0.08, 0.4, 0])
    assert [schedule.tau(step) for step in (0, 30, 60)] == pytest.approx([0.9, 0.95, 1.0])
    assert schedule.positions(17).tolist() == positions_at(17, 103, 10, seed=3).tolist()
    assert [done for done in range(1, 31) if schedule.ends_epoch(done)] == [10, 20, 30]
    assert str(schedule) == "6 epochs x 10 steps of 10 = 60 steps, 15 of warm-up"


def test_half_of_a_run_is_warm_up_at_most():
    assert Schedule(100, 10, epochs=3, warmup_epochs=5, peak_lr=1, seed=0).warmup_steps == 15


@pytest.mark.parametrize("count", [1, 2, 257, 100_000])
def test_the_order_takes_four_bytes_a_photo(count):
    """And is the one of runs before: numpy's own permutation of 0..count-1."""
    order = epoch_order(count, 3, 7)
    expected = np.random.Generator(np.random.PCG64([3, 7])).permutation(count)
    np.testing.assert_array_equal(order, expected)
    assert order.nbytes == 4 * count
    assert positions_at(0, count, 1, 3).dtype == np.int64  # of a batch alone: these are indices
