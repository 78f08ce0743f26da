import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from parfocal.encoders.catalog import TEST_CARDS
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.queue import EncoderQueue, queue_encoders


class SlowEncoder:
    """Returns the first pixel of each patch; it encodes nothing before it is released."""

    workers = 1
    batch_size = 8

    def __init__(self):
        self.spec = replace(TEST_CARDS["tiny"].spec(), dim=1, weights_hash="0" * 16)
        self.device = torch.device("cpu")
        self.released = threading.Event()
        self.batches = []

    def __call__(self, patches):
        assert self.released.wait(10)
        self.batches.append(patches[:, 0, 0, 0].tolist())
        if (patches == 255).any():
            raise ValueError("a white patch")
        time.sleep(0.01 * len(patches))
        return torch.tensor(patches[:, 0, 0, :1], dtype=torch.float32)

    def macs_per_patch(self):
        return 3


def patches(value, count, size=4):
    return np.full((count, size, size, 3), value, dtype=np.uint8)


@pytest.fixture
def encoder():
    return SlowEncoder()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def start(queue, pool, *requests):
    """Submit requests, each of a thread of its own; the first one holds the encoder."""
    futures = []
    for waiting, request in enumerate(requests):
        futures.append(pool.submit(queue.encode_timed, request))
        while queue.free or queue.waiting != waiting:
            time.sleep(0.001)
    return futures


def test_requests_of_waiting_threads_are_joined_up_to_the_best_size(encoder, pool):
    queue = EncoderQueue(encoder)
    sizes = [(1, 2), (2, 3), (3, 5), (4, 4)]
    futures = start(queue, pool, *(patches(value, count) for value, count in sizes))
    encoder.released.set()
    answers = [future.result()[0].flatten().tolist() for future in futures]
    assert encoder.batches == [[1] * 2, [2] * 3 + [3] * 5, [4] * 4]
    assert answers == [[value] * count for value, count in sizes]


def test_patches_of_another_size_are_not_joined(encoder, pool):
    queue = EncoderQueue(encoder)
    futures = start(queue, pool, patches(1, 1), patches(2, 1, size=4), patches(3, 1, size=8))
    encoder.released.set()
    assert [future.result()[0].item() for future in futures] == [1, 2, 3]
    assert encoder.batches == [[1], [2], [3]]


def test_the_seconds_of_a_batch_are_shared_out_by_patches(encoder, pool):
    queue = EncoderQueue(encoder)
    futures = start(queue, pool, patches(1, 1), patches(2, 1), patches(3, 3))
    encoder.released.set()
    (_, of_one), (_, of_three) = (future.result() for future in futures[1:])
    assert of_three == pytest.approx(3 * of_one)
    assert of_one + of_three >= 0.04


def test_a_patch_that_fails_does_not_fail_its_mates(encoder, pool):
    queue = EncoderQueue(encoder)
    futures = start(queue, pool, patches(1, 1), patches(2, 1), patches(255, 1), patches(4, 1))
    encoder.released.set()
    with pytest.raises(ValueError, match="a white patch"):
        futures[2].result()
    assert [futures[n].result()[0].item() for n in (0, 1, 3)] == [1, 2, 4]
    assert queue(patches(5, 1)).item() == 5  # the encoder is free again


def test_without_joining_every_request_is_a_batch(encoder, pool):
    queue = EncoderQueue(encoder, join=False)
    futures = start(queue, pool, patches(1, 1), patches(2, 1), patches(3, 1))
    encoder.released.set()
    for future in futures:
        future.result()
    assert encoder.batches == [[1], [2], [3]]


def test_many_threads_get_the_features_of_their_own_patches():
    encoder = load_encoder("tiny")
    queue = EncoderQueue(encoder)
    requests = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16, 3), dtype=np.uint8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(queue, requests))
    for request, answer in zip(requests, answers, strict=True):
        torch.testing.assert_close(answer, encoder(request), rtol=1e-4, atol=1e-5)


def test_a_queue_is_an_encoder_that_answers_a_single_thread_to_the_last_bit():
    encoder = load_encoder("tiny")
    (queue, same) = queue_encoders([encoder, encoder])
    assert queue is same
    assert isinstance(queue, Encoder)
    request = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    assert queue(request).equal(encoder(request))
    assert queue.macs_per_patch() == encoder.macs_per_patch()
    assert (queue.spec, queue.batch_size) == (encoder.spec, encoder.batch_size)


def test_queues_of_one_device_take_turns(encoder, pool):
    other = SlowEncoder()
    first, second = queue_encoders([encoder, other])
    (waiting,) = start(first, pool, patches(1, 1))
    later = pool.submit(second, patches(2, 1))
    other.released.set()
    time.sleep(0.05)
    assert not later.done()
    encoder.released.set()
    assert (waiting.result()[0].item(), later.result().item()) == (1, 2)
