"""The same training by one process and by two, on tiny random models: do the weights agree?
Taught in lesson 07: `torchrun --nproc-per-node 2 -m retrieval_lab.two_processes ddp FILE` writes the weights of rank 0.
"""

import os
import sys

import torch

from retrieval_lab import accelerate_config, batching, tiny
from retrieval_lab.profiles import say
from retrieval_lab.training import Config, fit

ROWS, JOINT, STEPS = 20, 8, 3  # 8 rows a step, in the last one 4
KINDS = ("one", "ddp", "fsdp")


def rows():
    """Words of different lengths, each with itself backwards as its answer."""
    from datasets import Dataset

    words = [chr(97 + i % 26) * 2 + str(i) * (1 + i % 4) for i in range(ROWS)]
    return Dataset.from_dict({"query": words, "positive": [word[::-1] for word in words]})


def train(kind: str, world_size: int = 1, folder: str = "runs/two_processes") -> dict[str, torch.Tensor]:
    """The weights after a few steps of plain gradient descent.

    Parameters
    ----------
    kind : "one" process with the whole batch, "ddp" or "fsdp" with a part of it in each process
    world_size : processes
    folder : for what the trainer writes

    Raises
    ------
    ValueError
        If the kind is unknown.

    Source: lesson 07.
    """
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    if kind not in KINDS:
        raise ValueError(
            say(en=f"kind={kind!r}; use one of {', '.join(KINDS)}", zh=f"kind={kind!r}；可用：{'、'.join(KINDS)}")
        )
    torch.manual_seed(0)
    model, data = tiny.encoder(), rows()
    if world_size > 1:  # not before: in a group only the first process writes the files that a tiny model is read from
        torch.distributed.init_process_group("gloo")
    loss = MultipleNegativesRankingLoss(model)
    if kind == "fsdp":
        return _sharded(model, loss, data, world_size)
    config = Config(
        output_dir=folder,
        per_device_train_batch_size=JOINT // world_size,
        max_steps=STEPS,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        warmup_ratio=0,
        max_grad_norm=1e9,
    )
    sampler = batching.sampler(model, data, data.column_names)
    fit(model, data, loss, config, batch_sampler=sampler, optim="sgd", use_cpu=True)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def _sharded(model, loss, data, world_size: int) -> dict[str, torch.Tensor]:
    """What accelerate does for FSDP 2, written out: each layer's weights lie in parts on all processes."""
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (world_size,))
    for module in [m for m in model.modules() if type(m).__name__ == accelerate_config.layer_class(model)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss.gather_across_devices = True
    batches = batching.sampler(model, data, data.column_names)(data, JOINT // world_size, False)
    mine = list(batches)[torch.distributed.get_rank() :: world_size][:STEPS]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Config().applied_to(model.train()):
        for batch in mine:
            optimizer.zero_grad()
            loss([model.preprocess(texts) for texts in data[batch].values()], None).backward()
            optimizer.step()
    return {
        name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        for name, weight in model.state_dict().items()
    }


def main(kind: str, file: str) -> None:
    """Join the other processes, train, and let rank 0 write the weights."""
    world_size = int(os.environ["WORLD_SIZE"])
    weights = train(kind, world_size, f"{file}.run")
    if torch.distributed.get_rank() == 0:
        torch.save(weights, file)
        print(f"{kind}: {world_size} processes, {JOINT // world_size} rows each")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
