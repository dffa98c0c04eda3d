"""Two processes that train one network: the same masses on both, those of one process with all the data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard

import evodyn as ed
import nn_bridge as nb

pytestmark = pytest.mark.nn

RANKS, STEPS = 2, 3
SIGNALS = {
    "benefit": nb.Benefit(smoothing=0.5),
    "contribution": nb.Contribution(relative="mean"),
    "samples": nb.Contribution(per_sample=True),
    "summed": nb.Contribution(summed=True, memory=0.5),
    "magnitude": nb.Magnitude(),
}


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS, 8, 6, generator=draw)
    return x, torch.randint(0, 3, (STEPS, 8), generator=draw)


SHARDED = ("benefit", "samples", "magnitude")


def trained(signal: nb.Signal, rank: int | None, sharded: bool = False) -> tuple[torch.Tensor, int]:
    """Return the masses after training on half of every batch, or on all of it (rank None).

    The second batch has a value that is not finite, which one rank alone sees.
    """
    model = nb.population_mlp((6, 5, 4, 3), seed=1)
    wrapped: nn.Module = model
    if sharded:
        for part in model.children():
            fully_shard(part)
        fully_shard(model)
        with pytest.raises(ValueError, match=r"hidden1\.weight is sharded .*full_state_dict=True"):
            nb.compact(model, torch.randn(2, 6))
    elif rank is not None:
        wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.0)
    selector = nb.Selector(
        wrapped, ed.SelectionMutation(0.1, target=1.0), signal, 0.5, extinction=ed.Extinction(0.5, "absorb")
    )
    x, y = batches()
    if signal.needs_gradient:
        x[1, 6, 0] = torch.inf
    if rank is not None:
        x, y = (part.split(4, dim=1)[rank] for part in (x, y))
    for inputs, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(inputs), labels).backward()
        for parameter in model.parameters():
            parameter.grad = None  # weights stay finite
        selector.step()
    return selector.masses, int(selector.skipped)


def rank_of(rank: int, folder: str) -> None:
    """Train every network as one of the ranks, and leave what was found in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    try:
        found = {name: trained(signal, rank) for name, signal in SIGNALS.items()}
        found |= {f"{name}, sharded": trained(SIGNALS[name], rank, sharded=True) for name in SHARDED}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_have_the_same_masses_and_those_of_one_process(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=rank_of, args=(1, str(tmp_path)))
    other.start()
    rank_of(0, str(tmp_path))
    other.join()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    for name in first:
        signal = SIGNALS[name.removesuffix(", sharded")]
        masses, skipped = trained(signal, None)
        assert first[name][1] == second[name][1] == skipped == int(signal.needs_gradient)
        assert torch.equal(first[name][0], second[name][0]), name
        torch.testing.assert_close(first[name][0], masses, rtol=1e-6, atol=0, msg=name)
        assert bool((masses != 1).any())
