"""Muon: orthogonal steps of convolutions' weights beside AdamW's steps of all else."""

import copy
import io
import math

import lightning as L
import pytest
import torch
from torch import nn

from digitsum.models import muon
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.muon import Muon, orthogonal

OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.1, "fused": True}


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(96, 5)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def learn(net, optimizer, steps, seed=0):
    torch.manual_seed(seed)
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            loss = net(torch.rand(8, 1, 8, 8)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.mark.parametrize("shape", [(24, 225), (96, 50), (8, 8), (1, 9)])
def test_the_singular_values_become_about_one_and_the_singular_vectors_stay(shape):
    torch.manual_seed(0)
    matrix = 1e3 * torch.randn(shape)
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ found @ vh.T
    assert torch.allclose(core, torch.diag(core.diag()), atol=1e-3)
    assert (core.diag() > 0.6).all()


def test_in_half_precision_the_steps_are_about_the_same():
    torch.manual_seed(0)
    matrix = torch.randn(24, 225)
    half = orthogonal(matrix, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half.float() - orthogonal(matrix)).norm() < 0.05 * half.float().norm()


def test_of_a_matrix_without_a_direction_nothing_is_made():
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))
    lonely = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0, 0.0]))  # one direction alone
    values = torch.linalg.svdvals(orthogonal(lonely))
    assert values[0] > 0.6
    assert values[1] < 1e-3


def test_a_first_step_is_as_long_as_its_formula_says():
    net = network()
    before, weight = net[2].weight.detach().clone(), net[2].weight
    optimizer = Muon(net.parameters(), **OPTIONS)
    net(torch.rand(8, 1, 8, 8)).square().mean().backward()
    direction = orthogonal(weight.grad.flatten(1)).view(weight.shape)  # of its own running mean the gradient's
    optimizer.step()
    expected = before * (1 - 1e-2 * 0.1) - 1e-2 * 0.2 * math.sqrt(4 * 9) * direction
    assert torch.allclose(weight, expected, atol=1e-5)


def test_all_but_the_convolutions_of_several_channels_take_adamws_steps():
    ours, theirs = network(), network()
    for net in (ours, theirs):
        net[2].weight.requires_grad_(False)  # without it both networks stay the same, step after step
    learn(ours, Muon(ours.parameters(), **OPTIONS), 3)
    learn(theirs, torch.optim.AdamW(theirs.parameters(), **OPTIONS), 3)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, reference)
    moved = [
        name
        for name, value in ours.named_parameters()
        if not torch.equal(value, dict(network().named_parameters())[name])
    ]
    assert moved == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]


def test_it_goes_on_bit_for_bit_from_its_saved_state():
    straight = network()
    optimizer = Muon(straight.parameters(), **OPTIONS)
    learn(straight, optimizer, 2)
    kept = io.BytesIO()
    torch.save(optimizer.state_dict(), kept)
    restored = copy.deepcopy(straight)
    again = Muon(restored.parameters(), **OPTIONS)
    again.load_state_dict(torch.load(io.BytesIO(kept.getvalue()), weights_only=True))
    learn(straight, optimizer, 2, seed=1)
    learn(restored, again, 2, seed=1)
    for mine, reference in zip(restored.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_the_module_has_it_for_its_setting():
    settings = OptimizerSettings(optimizer="muon", lr=3e-4, weight_decay=0.1)
    optimizer = SumModule("two_conv", (40, 60), None, settings).configure_optimizers()
    assert isinstance(optimizer, Muon)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]
    assert [len(group["params"]) for group in optimizer.param_groups] == [7, 1]
    with pytest.raises(ValueError, match=r"model.optimizer: expected one of adam, muon, got 'sgd'"):
        OptimizerSettings(optimizer="sgd")


@pytest.mark.parametrize(("precision", "expected"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_it_multiplies_in_the_precision_of_the_training(precision, expected, monkeypatch):
    asked = []

    def recorded(matrix, dtype):
        asked.append(dtype)
        return matrix.to(dtype)

    monkeypatch.setattr(muon, "orthogonal", recorded)
    module = SumModule("two_conv", (40, 60), None, OptimizerSettings(optimizer="muon"))
    module.trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    optimizer = module.make_optimizer()
    module.net(torch.rand(2, 40, 60)).sum().backward()
    optimizer.step()
    assert asked == [expected]
