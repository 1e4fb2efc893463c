"""Slots: how many runs are computed at once, and which GPU each process sees."""

import os
import sys

import pytest

from core.jobs import slots
from core.jobs.slots import Slot, first_free, local_slots, try_acquire
from core.machine import hardware


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the number of GPUs, without TensorFlow and without settings in the environment."""

    def has(gpus, allowed=None):
        monkeypatch.setattr(hardware, "gpus", lambda: ("NVIDIA H200",) * gpus)
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        for name in ("NST_WORKERS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.setenv(name, "")  # so that changes by the test are undone
            monkeypatch.delenv(name)
        if allowed is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        slots._accelerators.cache_clear()

    yield has
    slots._accelerators.cache_clear()


@pytest.mark.parametrize(("gpus", "count"), [(0, 1), (1, 1), (4, 4), (100, 64)])
def test_there_is_one_slot_for_each_accelerator(machine, gpus, count):
    machine(gpus)
    assert local_slots() == tuple(Slot(number) for number in range(count))


@pytest.mark.parametrize(("allowed", "count"), [("2", 1), ("0,3", 2), ("", 1), ("-1", 1)])
def test_gpus_that_the_user_excludes_do_not_count(machine, allowed, count):
    machine(4, allowed)
    assert len(local_slots()) == count


@pytest.mark.parametrize(("asked", "count"), [("", 4), ("1", 1), ("02", 2), ("64", 64)])
def test_nst_workers_sets_the_number_of_slots(machine, monkeypatch, asked, count):
    machine(4)
    monkeypatch.setenv("NST_WORKERS", asked)
    assert len(local_slots()) == count


def test_the_files_of_the_first_slot_have_no_number(own_home):
    assert [Slot(number).readiness_file.name for number in range(3)] == [
        "worker.json",
        "worker-2.json",
        "worker-3.json",
    ]
    assert Slot(0).turn_lock().lock_file == str(own_home / "painting.lock")
    assert Slot(1).work_lock().lock_file == str(own_home / "worker-2.lock")
    assert Slot(1, on_cluster=True).turn_lock().lock_file == str(own_home / "painting-on-cluster-2.lock")


def test_each_slot_sees_its_own_gpu_and_the_number_of_slots_stays(machine, monkeypatch):
    machine(2)
    found = local_slots()
    for slot, card in zip(found, "01", strict=True):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        slot.choose_card()
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == (card, "PCI_BUS_ID")
        assert hardware.cards() == (card,)
        assert local_slots() == found


@pytest.mark.parametrize(("allowed", "seen"), [("2", "2"), ("", ""), ("3,1", "1")])
def test_only_gpus_that_the_user_allows_are_visible(machine, allowed, seen):
    """The numbering of the GPUs stays as the user meant it."""
    machine(4, allowed)
    Slot(1).choose_card()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    assert "CUDA_DEVICE_ORDER" not in os.environ


def test_more_slots_than_gpus_share_the_gpus(machine):
    machine(2)
    Slot(3).choose_card()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize("gpus", [0, 1])
def test_no_gpu_is_chosen_if_there_is_at_most_one(machine, gpus):
    machine(gpus)
    Slot(0).choose_card()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_no_gpu_is_chosen_after_tensorflow_is_loaded(machine, monkeypatch):
    machine(2)
    monkeypatch.setitem(sys.modules, "tensorflow", os)
    Slot(1).choose_card()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_first_free_slot_is_found(own_home):
    own_home.mkdir()
    places = [Slot(0), Slot(1)]
    with Slot(0).turn_lock():
        slot, held = first_free(places, Slot.turn_lock)
        assert slot == Slot(1) and not try_acquire(Slot(1).turn_lock())
        assert first_free(places, Slot.turn_lock) is None
        assert first_free(places, Slot.work_lock)[0] == Slot(0)
        held.lock.release()
        assert try_acquire(Slot(1).turn_lock())
