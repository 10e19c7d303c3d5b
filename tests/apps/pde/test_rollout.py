"""Rollouts with a network whose answer is known: the heat equation's exact decay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.inference.rollout import autoregressive, direct, feed_back, steps


class Decay(nn.Module):
    """Multiplies the first `outputs` channels of the last frame by exp(-time)."""

    frames, timed = 2, True

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.outputs = outputs
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, history: Tensor, time: Tensor) -> Tensor:
        factor = torch.exp(-self.rate * time).view(-1, 1, 1, 1, 1)
        return history[:, -1:, : self.outputs] * factor

    def advance(self, history: Tensor, time: Tensor) -> Tensor:
        return self(history, time)


class Pair(nn.Module):
    """Gives two frames a call: the last one plus 1 and plus 2."""

    def advance(self, history: Tensor, time: Tensor) -> Tensor:
        return torch.cat([history[:, -1:] + 1, history[:, -1:] + 2], dim=1)


@pytest.fixture
def history() -> Tensor:
    return torch.rand(3, 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


@pytest.fixture
def times() -> Tensor:
    return torch.tensor([[0.1, 0.4, 1.0]], dtype=torch.float64).expand(3, -1)


def test_direct_and_autoregressive_agree_for_an_exact_semi_group(history, times):
    once, chained = direct(Decay(), history, times), autoregressive(Decay(), history, times)
    torch.testing.assert_close(once, chained, rtol=1e-12, atol=0)
    torch.testing.assert_close(once[:, 2], history[:, -1, :2] * torch.exp(-times[:, 2]).view(-1, 1, 1, 1))


def test_channels_that_are_no_output_are_carried_over(history):
    out = torch.zeros(3, 1, 2, 4, 5, dtype=torch.float64)
    after = feed_back(history, out)
    assert torch.equal(after[:, 0], history[:, 1])
    assert torch.equal(after[:, 1, 2], history[:, 1, 2])
    assert (after[:, 1, :2] == 0).all()


def test_outputs_go_to_the_inputs_of_their_names(history):
    out = torch.zeros(3, 1, 2, 4, 5, dtype=torch.float64)
    after = feed_back(history, out, [2, 0])
    assert torch.equal(after[:, 1, 1], history[:, 1, 1])
    assert (after[:, 1, [0, 2]] == 0).all()


def test_a_network_of_two_frames_a_call_fills_an_odd_number_of_times():
    history, times = torch.zeros(1, 1, 1, 2), torch.arange(1, 6.0)[None]
    assert autoregressive(Pair(), history, times)[0, :, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_detached_feedback_gives_the_gradient_of_each_step_alone(history, times):
    whole, cut = Decay(), Decay()
    torch.cat(list(steps(whole, history, times)), 1).sum().backward()
    torch.cat(list(steps(cut, history, times, detach=True)), 1).sum().backward()
    before = torch.cat([times.new_zeros(3, 1), times[:, :-1]], 1)
    last = autoregressive(Decay(), history, times)
    expected = -((times - before).view(3, 3, 1, 1, 1) * last).sum()
    assert cut.rate.grad.item() == pytest.approx(expected.item())
    assert whole.rate.grad.item() != pytest.approx(expected.item())


def test_more_outputs_than_inputs_cannot_be_fed_back(history):
    with pytest.raises(UserError, match="the network gives 4 channels and takes 3, so its output cannot"):
        feed_back(history, torch.zeros(3, 1, 4, 4, 5))
