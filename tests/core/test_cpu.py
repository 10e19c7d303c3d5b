"""CPU switches: each can be turned off, what is on is reported with its reason, and float32 stays float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from core.accelerators import cpu
from core.backbones.dropout import Dropout
from core.errors import UserError

OFF = cpu.CPUSwitches(allocator=False, onednn_matmul=False, fast_dropout=False, fused_optimizer=False)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    monkeypatch.setattr(cpu, "_record", {})
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)  # where another test has run `dfm` in this process
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def test_everything_can_be_turned_off() -> None:
    state = cpu.apply(OFF)

    assert not any(entry["on"] for entry in state.values())
    assert torch.get_float32_matmul_precision() == "highest"


def test_every_switch_says_why() -> None:
    state = cpu.apply(cpu.CPUSwitches())

    names = {"allocator", "onednn_matmul", "fast_dropout", "fused_optimizer", "short_spin", "threads"}
    assert set(state) == names
    assert all(entry["reason"] for entry in state.values())
    assert cpu.active() == state


@pytest.mark.parametrize(("turns", "on"), [("10000", True), ("300000", False), (None, False)])
def test_short_spin_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, turns: str | None, on: bool
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if turns is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", turns)

    assert cpu.apply(cpu.CPUSwitches())["short_spin"]["on"] is on


def test_what_is_reported_is_what_torch_does() -> None:
    state = cpu.apply(cpu.CPUSwitches())

    expected = "medium" if state["onednn_matmul"]["on"] else "highest"
    assert torch.get_float32_matmul_precision() == expected


def test_products_keep_float32_accuracy_with_everything_on() -> None:
    cpu.apply(cpu.CPUSwitches())
    a, b = torch.randn(2, 384, 384, generator=torch.Generator().manual_seed(1))

    exact = a.double() @ b.double()

    assert float(((a @ b).double() - exact).abs().max() / exact.abs().max()) < 1e-5


def test_a_processor_with_amx_is_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True})

    state = cpu.apply(cpu.CPUSwitches())

    assert not state["onednn_matmul"]["on"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_probe_alone_keeps_float32_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})  # a processor that does not tell
    a, b = torch.randn(2, 384, 384, generator=torch.Generator().manual_seed(1))
    exact = a.double() @ b.double()

    cpu.fast_float32_matmul()

    assert float(((a @ b).double() - exact).abs().max() / exact.abs().max()) < 1e-5


def test_a_network_of_small_products_takes_the_old_way() -> None:
    state = cpu.apply(cpu.CPUSwitches(), network=nn.Linear(16, 16), rows=64)

    assert not state["onednn_matmul"]["on"]
    assert "too small" in state["onednn_matmul"]["reason"] or "16,384" in state["onednn_matmul"]["reason"]


def test_turning_off_undoes_what_was_on() -> None:
    cpu.apply(cpu.CPUSwitches())

    state = cpu.apply(OFF)

    assert not state["onednn_matmul"]["on"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_largest_product_is_found_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Embedding(9999, 9), nn.Linear(10, 30), nn.Linear(30, 2))

    assert cpu.largest_product(network, rows=7) == 7 * 300


@pytest.mark.parametrize("wanted", [True, False])
def test_the_network_s_dropout_is_switched(wanted: bool) -> None:
    network = nn.Sequential(nn.Linear(2, 2), Dropout(0.5))

    state = cpu.apply(cpu.CPUSwitches(allocator=False, fast_dropout=wanted), network=network)

    assert network[1].fast is wanted
    assert state["fast_dropout"]["on"] is wanted


def test_threads_are_set_and_reported() -> None:
    state = cpu.apply(cpu.CPUSwitches(allocator=False, threads=1))

    assert torch.get_num_threads() == 1
    assert state["threads"] == {"on": True, "value": 1, "reason": "set"}


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(UserError, match="'threads' is 0"):
        cpu.apply(cpu.CPUSwitches(threads=0))
