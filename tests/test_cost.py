import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from parfocal.cost import Cost, CostMeter, ExhaustiveCost, count_macs, no_mac_counting


def test_patches_are_counted_per_step():
    cost_meter = CostMeter()
    cost_meter.add_patches(1, 8)
    cost_meter.add_patches(0, 5)
    cost_meter.add_patches(1, 8)
    assert cost_meter.total().patches == (5, 16)


def test_pixels_added_by_threads_are_all_counted():
    cost_meter = CostMeter()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2000):
            pool.submit(cost_meter.add_pixels, 3)
    assert cost_meter.total().pixels_decoded == 6000


def test_bytes_are_none_until_a_reader_reports_some():
    cost_meter = CostMeter()
    cost_meter.add_pixels(10)
    assert cost_meter.total().bytes_read is None
    cost_meter.add_bytes(7)
    assert cost_meter.total().bytes_read == 7


def test_seconds_add_up_per_stage():
    cost_meter = CostMeter()
    for _ in range(2):
        with cost_meter.measure_time("read"):
            torch.ones(10).sum()
    seconds = cost_meter.total().seconds
    assert set(seconds) == {"open", "tissue", "read", "encode", "model", "total"}
    assert 0 < seconds["read"] <= seconds["total"]
    assert seconds["encode"] == 0


def test_seconds_are_added_if_the_block_fails():
    cost_meter = CostMeter()
    with pytest.raises(OSError, match="lost"), cost_meter.measure_time("read"):
        raise OSError("lost")
    assert cost_meter.total().seconds["read"] > 0


def test_fused_attention_is_counted_as_its_two_products():
    cost_meter, q, k = CostMeter(), torch.ones(1, 2, 3, 8), torch.ones(1, 2, 5, 8)
    with torch.no_grad(), cost_meter.measure_macs():
        nn.functional.scaled_dot_product_attention(q, k, k)
    assert cost_meter.total().macs == 2 * (2 * 3 * 5 * 8)


def test_a_matrix_product_is_counted_as_multiply_accumulates():
    cost_meter = CostMeter()
    with cost_meter.measure_macs():
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert cost_meter.total().macs == 3 * 5 * 7


def test_macs_are_not_counted_inside_no_mac_counting():
    cost_meter = CostMeter()
    with cost_meter.measure_macs():
        torch.ones(3, 5) @ torch.ones(5, 7)
        with no_mac_counting():
            torch.ones(30, 50) @ torch.ones(50, 70)
    assert cost_meter.total().macs == 105


def test_the_macs_of_a_module_are_counted_once_per_input_shape():
    layer = nn.Conv2d(3, 8, 3, padding=1)
    runs = []
    layer.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        assert count_macs(layer, (1, 3, 10, 10)) == 10 * 10 * 3 * 8 * 9
    assert len(runs) == 1


def test_macs_equal_those_of_the_flop_counter_of_torch():
    layers = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 36, 5))
    with FlopCounterMode(display=False) as counter:
        layers(torch.zeros(2, 4, 8, 8))
    assert count_macs(layers, (2, 4, 8, 8)) == counter.get_total_flops() // 2


def test_counting_does_not_import_the_compiler_of_torch():
    count = "import sys, torch; from parfocal.cost import CostMeter, count_macs\n"
    count += "with CostMeter().measure_macs(): count_macs(torch.nn.Conv2d(1, 1, 1), (1, 1, 2, 2))\n"
    count += "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", count], check=True)


def test_shares_are_relative_to_the_exhaustive_cost():
    exhaustive = ExhaustiveCost(10, patches=3680, descendants=3840, macs=200, pixels=1000)
    cost = Cost((60, 32), 30, None, 50, {}, exhaustive)
    assert cost.share_patches == pytest.approx(0.025)
    assert cost.share_pixels == 0.03
    assert cost.share_macs == 0.25


def test_a_share_of_zero_or_of_an_unknown_cost_is_none():
    assert Cost((1,), 0, None, 1, {}).share_patches is None
    nothing = Cost((1,), 0, None, 1, {}, ExhaustiveCost(10, 0, 4, 0, 0))
    assert nothing.share_macs is nothing.share_pixels is None
