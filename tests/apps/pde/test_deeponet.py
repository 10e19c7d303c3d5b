"""DeepONets: the sum of products they are, where they can be asked, and what they can learn."""

from __future__ import annotations

import pytest
import torch

from apps.pde.models.deeponet import ConvDeepONet, DeepONet, conv_deeponet_2d, coordinates, deeponet_engine
from core.errors import UserError


def net(**more) -> DeepONet:
    torch.manual_seed(1)
    settings = {
        "resolution": (6,),
        "in_channels": 2,
        "out_channels": 3,
        "basis": 4,
        "branch": (8,),
        "trunk": (8,),
    }
    return DeepONet(**{**settings, **more})


@pytest.mark.parametrize("outputs", ["split", "separate"])
def test_the_output_is_a_sum_over_basis_functions(outputs):
    network = net(outputs=outputs)
    with torch.no_grad():
        network.bias.normal_()
    fields, points = torch.randn(5, 2, 6), torch.rand(7, 1)

    out = network(fields, points)

    coefficients = torch.cat([branch(fields.flatten(1)) for branch in network.branches], 1).view(5, 3, 4)
    functions = torch.cat([trunk(points) for trunk in network.trunks], 1).view(7, 3, 4)
    for output in range(3):
        expected = coefficients[:, output] @ functions[:, output].T + network.bias[output]
        torch.testing.assert_close(out[:, output], expected)


def test_the_grid_is_one_of_the_places_to_ask():
    network = net(resolution=(3, 4))
    fields = torch.randn(2, 2, 3, 4)

    where = coordinates((3, 4), like=fields)

    assert where[5].tolist() == pytest.approx([1 / 3, 1 / 4])
    torch.testing.assert_close(network(fields).flatten(2), network(fields, where))


def test_separate_nets_share_nothing():
    network = net(outputs="separate")
    network(torch.randn(2, 2, 6))[:, 0].sum().backward()

    assert all(p.grad is None or not p.grad.any() for p in network.branches[1].parameters())
    assert all(p.grad.any() for p in network.branches[0].parameters())


def test_constant_channels_are_read_once_and_a_residual_starts_from_them():
    network = net(in_channels=5, constants=3, residual=True)
    fields = torch.randn(2, 5, 6)
    fields[:, 2:] = fields[:, 2:, :1]
    with torch.no_grad():
        for parameter in network.trunks[0][-2].parameters():
            parameter.zero_()

    assert network.branches[0][0].in_features == 2 * 6 + 3
    torch.testing.assert_close(network(fields), fields[:, 2:])
    torch.testing.assert_close(network(fields, torch.rand(4, 1)), fields[:, 2:, :1].expand(2, 3, 4))


def test_frames_become_channels():
    for network, space in ((net(frames=3), (6,)), (ConvDeepONet(2, 3, basis=4, frames=3), (16, 24))):
        history = torch.randn(2, 3, 2, *space)
        out = network.eval().advance(history)
        assert out.shape == (2, 1, 3, *space)
        torch.testing.assert_close(out[:, 0], network(history.flatten(1, 2)))


def test_the_convolutional_branch_has_the_published_sizes():
    with torch.device("meta"):
        network = conv_deeponet_2d(in_channels=1, out_channels=3)

    widths = [layer.weight.shape[:2] for layer in network.blocks()]
    assert widths == [
        (32, 1),
        (128, 32),
        (256, 128),
        (512, 256),
        (1024, 8192),
        (256, 1024),
        (256, 2),
        (512, 256),
        (256, 512),
        (3, 256),
    ]


def test_the_convolutional_network_combines_products():
    torch.manual_seed(2)
    network = ConvDeepONet(2, 3, basis=5, branch=(4, 8), branch_width=6, trunk=(7,))
    fields, points = torch.randn(2, 2, 9, 10), torch.rand(11, 2)

    b, t = network.branch(network.convolutions(fields)), network.trunk(points)

    expected = network.combine(b[:, None] * t[None]).transpose(1, 2)
    torch.testing.assert_close(network(fields, points), expected)
    assert network(fields).shape == (2, 3, 9, 10)


def test_an_antiderivative_is_learned():
    """The first example of the DeepONet paper: u to its integral, at points that are not the sensors."""
    draw = torch.Generator().manual_seed(0)
    x = torch.arange(32) / 32
    orders = torch.arange(1, 4)[:, None]
    weights = torch.randn(400, 3, generator=draw)
    functions = weights @ torch.cos(torch.pi * orders * x)
    points = torch.rand(20, 1, generator=draw)
    integrals = weights @ (torch.sin(torch.pi * orders * points.T) / (torch.pi * orders))
    torch.manual_seed(0)
    network = DeepONet(resolution=(32,), basis=16, branch=(64,), trunk=(64, 64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 400)
    for _ in range(400):
        out = network(functions[:300, None], points)[:, 0]
        (out - integrals[:300]).square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    wrong = network(functions[300:, None], points)[:, 0] - integrals[300:]
    assert wrong.norm() / integrals[300:].norm() < 0.1


@pytest.mark.parametrize("kind", [deeponet_engine, ConvDeepONet])
def test_a_network_without_memory_is_filled_by_its_own_reset(kind):
    with torch.device("meta"):
        network = kind()
    network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)

    network.reset_parameters()

    assert not any(bool((parameter == 7).any()) for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"outputs": "both"}, "must be split or separate"),
        ({"activation": "sine"}, "must be one of relu"),
        ({"basis": 0}, "network.basis is 0"),
        ({"constants": 9}, "there are 2 input channels"),
        ({"residual": True}, "adds 3 input channels"),
    ],
)
def test_a_wrong_argument_is_named(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        net(**arguments)


def test_fields_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"takes \(batch, 2, 6\)"):
        net()(torch.randn(2, 2, 7))
    with pytest.raises(ValueError, match="at least 8 points"):
        ConvDeepONet()(torch.randn(2, 1, 4, 16))
