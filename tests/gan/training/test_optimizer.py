"""Our updates are Adam's, whatever the network computes in."""

import pytest
import torch

import gan.training.optimizer
from gan.networks.discriminator import Discriminator
from gan.networks.precision import LOWER_TYPES, low_precision_copy
from gan.training.optimizer import Adam

RATE = 2e-2


def gradients_of(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator).to(p.dtype) for n, p in network.named_parameters()}


def update(adam: Adam, gradients: dict[str, torch.Tensor], *scaling: torch.Tensor) -> None:
    adam.begin_update(*scaling[1:])
    adam.update(gradients, *scaling)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("chunk", [7, 2**18])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_updates_are_those_of_torchs_adam(
    precision: str, chunk: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gan.training.optimizer, "CHUNK", chunk)
    ours, plain = Discriminator(2, 16), Discriminator(2, 16)
    ours.to(memory_format=memory_format)  # type: ignore[call-overload]
    plain.load_state_dict(ours.state_dict())
    low = low_precision_copy(ours, precision)
    adam = Adam(ours, low, RATE)
    theirs = torch.optim.Adam(plain.parameters(), lr=RATE, betas=(0.5, 0.999))
    for step in range(3):
        values = gradients_of(low, step)
        update(adam, values)
        for name, parameter in plain.named_parameters():
            parameter.grad = values[name].float()
        theirs.step()
    for mine, other, copied in zip(ours.parameters(), plain.parameters(), low.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(copied, mine.to(copied.dtype))
    assert adam.num_updates == 3


def test_an_update_that_overflowed_changes_nothing() -> None:
    network = Discriminator(2, 16)
    low = low_precision_copy(network, "fp16")
    adam = Adam(network, low, RATE)
    before = [tensor.detach().clone() for tensor in (*network.parameters(), *low.parameters())]
    update(adam, gradients_of(low, 0), torch.tensor(4.0), torch.tensor(1.0))
    after = [*network.parameters(), *low.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert adam.num_updates == 0
    update(adam, gradients_of(low, 0), torch.tensor(4.0), torch.tensor(0.0))
    assert adam.num_updates == 1
    assert not torch.equal(before[0], next(network.parameters()))


def test_gradients_are_divided_by_the_scale() -> None:
    moments = []
    for scale in (1.0, 8.0):
        torch.manual_seed(0)
        network = Discriminator(2, 16)
        adam = Adam(network, network, RATE)
        values = {name: scale * value for name, value in gradients_of(network, 0).items()}
        update(adam, values, torch.tensor(scale), torch.tensor(0.0))
        moments.append(adam.moments["layers.0.weight"][0])
    torch.testing.assert_close(*moments)


def test_gradients_in_another_memory_format_are_taken_as_they_are_meant() -> None:
    networks = [Discriminator(2, 16), Discriminator(2, 16)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, memory_format in zip(networks, (torch.contiguous_format, torch.channels_last), strict=True):
        values = {
            name: value.contiguous(memory_format=memory_format) if value.ndim == 4 else value
            for name, value in gradients_of(network, 0).items()
        }
        update(Adam(network, network, RATE), values)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_low_precision_copy_shares_all_but_its_convolutions(precision: str) -> None:
    network = Discriminator(2, 16)
    low = low_precision_copy(network, precision)
    for (name, mine), (_, other) in zip(network.named_parameters(), low.named_parameters(), strict=True):
        norm = ".3." in f".{name}"
        assert (mine is other) == norm
        assert other.dtype == (torch.float32 if norm else LOWER_TYPES[precision])
    pictures = torch.randn(2, 3, 64, 64)
    low(pictures, pictures)
    assert int(network.state_dict()["layers.3.num_batches_tracked"]) == 1
    assert low_precision_copy(network, "fp32") is network
