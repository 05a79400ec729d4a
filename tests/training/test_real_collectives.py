"""Bytes that PyTorch really hands to gloo under DDP, FSDP and tensor parallelism, and the predicted payloads.

Two and four CPU processes train a tiny decoder for one step; every collective that reaches `c10d` is counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from euston.catalog import accelerator
from euston.cluster import Parallel, Site, place
from euston.devices import GPU
from euston.fabrics import clos
from euston.models import Transformer
from euston.training import Conditions, Iteration, SoftwareProfile, TrainingJob, run_iteration

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LAYERS, HIDDEN, HEADS, FFN, VOCAB, SEQUENCE = 3, 64, 4, 176, 256, 32
MODEL = Transformer("tiny", layers=LAYERS, hidden=HIDDEN, heads=HEADS, vocab=VOCAB, ffn=FFN)

WORKER = r"""
import json, os, sys, time
import torch, torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

way, rank, world, store, layers, hidden, heads, ffn, vocab, sequence = sys.argv[1:]
rank, world, layers, hidden, heads, ffn, vocab, sequence = map(
    int, (rank, world, layers, hidden, heads, ffn, vocab, sequence))
torch.manual_seed(0)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
sent = {}

def size(x):
    if isinstance(x, torch.Tensor):
        return x.numel() * x.element_size()
    return sum(map(size, x)) if isinstance(x, (list, tuple)) else 0

class Count(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        out = func(*args, **(kwargs or {}))
        if "c10d" in name:
            kind = next((k for k in ("allreduce", "all_reduce", "allgather", "all_gather", "reduce_scatter")
                         if k in name), None)
            if kind:
                kind = kind.replace("allreduce", "all_reduce").replace("allgather", "all_gather")
                # the full buffer: what an all-gather ends with and the others start with
                if kind == "all_gather":
                    whole = size(args[0]) if "_base" in name else size(args[0]) * world
                else:
                    whole = size(args[1]) if "_base" in name else size(args[0])
                sent.setdefault(kind, []).append(whole)
        return out

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.up_gate = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)
        self.first, self.second = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
    def forward(self, x):
        y = self.first(x)
        shape = (*y.shape[:2], -1, hidden // heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(y).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.o(y.reshape(*x.shape[:2], -1))
        y = self.second(x)
        up, gate = self.up_gate(y).chunk(2, -1)
        return x + self.down(nn.functional.silu(gate) * up)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(hidden), nn.Linear(hidden, vocab, bias=False)
    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

model = Model()
tokens = torch.randint(vocab, (1, sequence))
if way == "ddp":
    from torch.nn.parallel import DistributedDataParallel
    run = DistributedDataParallel(model)
    def hook(_, bucket):
        sent.setdefault("all_reduce", []).append(size(bucket.buffer()))
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])
    run.register_comm_hook(None, hook)
    run(tokens).sum().backward()
elif way == "fsdp":
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    mesh = init_device_mesh("cpu", (world,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(model.embedding, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard([model.norm, model.head], mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    with Count():
        model(tokens).float().sum().backward()
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    mesh = init_device_mesh("cpu", (world,))
    plan = {n: ColwiseParallel() for n in ("qkv", "up_gate")} | {n: RowwiseParallel() for n in ("o", "down")}
    for layer in model.layers:
        parallelize_module(layer, mesh, plan)
    x = model.embedding(tokens).detach().requires_grad_()
    with Count():
        y = x
        for layer in model.layers:
            y = layer(y)
        y.sum().backward()
if rank == 0:
    print(json.dumps(sent), flush=True)
# nobody leaves before all are done: a rank that closes its sockets early fails those still in a collective
done = dist.FileStore(store + ".done", world)
done.add("ranks", 1)
while done.add("ranks", 0) < world:
    time.sleep(0.01)
os._exit(0)
"""


def really_sent(way: str, world: int, folder: Path) -> dict[str, list[int]]:
    """Full buffers of the collectives of one step, by kind."""
    shape = [str(n) for n in (LAYERS, HIDDEN, HEADS, FFN, VOCAB, SEQUENCE)]
    store = folder / f"{way}{world}"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, way, str(rank), str(world), str(store), *shape],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    told = [process.communicate(timeout=300) for process in ranks]
    for process, (_, words) in zip(ranks, told, strict=True):
        assert process.returncode == 0, words[-2000:]
    found: dict[str, list[int]] = json.loads(told[0][0].strip().splitlines()[-1])
    return found


def predicted(parallel: Parallel, **changes: object) -> Iteration:
    fabric = clos(parallel.world, 1, nic=1e10, hosts_per_tor=parallel.world, aggs_per_pod=1)
    site = Site("test", accelerator("h100-sxm"), parallel.world, 1, fabric)
    job = TrainingJob(MODEL, parallel, global_batch=parallel.data, sequence=SEQUENCE, **changes)  # type: ignore[arg-type]
    return run_iteration([(job, place(parallel, site))], site, [GPU(site.accelerator)], Conditions())


def wire_bytes(found: Iteration, label: str) -> float:
    """Bytes that each rank sends in a step for transfers of a label (one rank per host, so one ring)."""
    program, table = found.run.program, found.table
    ops = found.jobs[0].index[0]
    mine = ops[program.label[ops] == program.labels.index(label)]
    return float((table.size[program.transfer[mine]] * program.work[mine]).sum())


@pytest.mark.parametrize("world", [2, 4])
def test_ddp_reduces_every_gradient_once(world: int, tmp_path: Path) -> None:
    real = really_sent("ddp", world, tmp_path)
    found = predicted(Parallel(data=world))
    payload = sum(real["all_reduce"])
    assert payload == 4 * MODEL.parameters()
    assert wire_bytes(found, "gradients") == pytest.approx(2 * (world - 1) / world * payload, rel=1e-9)


@pytest.mark.parametrize("world", [2, 4])
def test_fsdp_gathers_twice_in_16_bit_and_scatters_once_in_32(world: int, tmp_path: Path) -> None:
    real = really_sent("fsdp", world, tmp_path)
    found = predicted(Parallel(data=world, sharding="zero3"))
    share = (world - 1) / world
    assert wire_bytes(found, "parameters") == pytest.approx(share * sum(real["all_gather"]), rel=1e-3)
    assert wire_bytes(found, "gradients") == pytest.approx(share * sum(real["reduce_scatter"]), rel=1e-3)


@pytest.mark.parametrize("world", [2, 4])
def test_tensor_parallel_ranks_reduce_four_times_per_layer(world: int, tmp_path: Path) -> None:
    """torch computes in FP32 here, the model in 16 bit: twice the bytes; embedding and head are left out."""
    real = really_sent("tp", world, tmp_path)
    found = predicted(Parallel(tensor=world), software=SoftwareProfile(tensor_backward_overlap=True))
    cost = found.jobs[0].cost
    assert cost.collective is not None
    chunk = cost.chunks[0][0]
    ends = 4  # embedding and head, both ways
    uses = chunk.tensor_forward + chunk.tensor_backward + chunk.tensor_hidden - ends
    payload = sum(real["all_reduce"]) / 2
    assert uses == 4 * LAYERS
    assert uses * cost.collective.wire_bytes == pytest.approx(2 * (world - 1) / world * payload, rel=1e-9)
