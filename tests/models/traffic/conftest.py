from collections.abc import Callable, Iterator

import pytest
import torch

from models.traffic.embedding import FlowTensors

PACKETS, FIELDS = 6, 3


def draw_flows(kept: list[int], seed: int = 0) -> FlowTensors:
    """Random flows of the given numbers of packets; zero behind their ends."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, high: int) -> torch.Tensor:
        return torch.randint(high, (len(kept), *shape), generator=generator)

    there = torch.arange(PACKETS) < torch.tensor(kept)[:, None]
    return FlowTensors(
        kept=torch.tensor(kept, dtype=torch.int32),
        size=(draw(PACKETS, high=1500) * there).to(torch.int32),
        direction=((2 * draw(PACKETS, high=2) - 1) * there).to(torch.int8),
        gap_s=draw(PACKETS, high=1000) / 1000.0 * there,
        fields=(draw(PACKETS, FIELDS, high=65536) * there[..., None]).to(torch.uint16),
        octets=(draw(2, 8, high=256) * there[:, :2, None]).to(torch.uint8),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These shapes are so small that a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def flows() -> Callable[..., FlowTensors]:
    return draw_flows
