"""Processes: setting them up, and the few collectives that objectives and the trainer need.

Everything works unchanged with one process and no process group. The differentiable gather is the one whose backward
sums over ranks: with it, when each rank returns the mean loss of its own rows, the gradients that data parallelism
averages equal those of one process with the whole batch (and a gather without gradient points the wrong way).
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor


def rank() -> int:
    return td.get_rank() if is_distributed() else 0


def world() -> int:
    return td.get_world_size() if is_distributed() else 1


def is_distributed() -> bool:
    return td.is_available() and td.is_initialized()


def is_main() -> bool:
    return rank() == 0


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched() -> bool:
    """Return whether a launcher (torchrun, deepspeed, accelerate, srun's body) has set the rendezvous variables."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def device() -> torch.device:
    """Return this process's device: its own GPU where there is one, else the CPU."""
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def init(timeout_minutes: float = 10.0) -> None:
    """Join the process group that the launcher describes; does nothing for a single process or when already joined."""
    if not launched() or is_distributed():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    td.init_process_group(backend, timeout=datetime.timedelta(minutes=timeout_minutes))


def shutdown() -> None:
    if is_distributed():
        td.destroy_process_group()


def barrier() -> None:
    if is_distributed():
        td.barrier()


class _Gather(torch.autograd.Function):
    """All-gather along dim 0; backward sums every rank's gradient of this rank's slice."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        pieces = [torch.empty_like(tensor) for _ in range(world())]
        td.all_gather(pieces, tensor.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        grad = grad.contiguous()
        td.all_reduce(grad)
        start = rank() * ctx.rows
        return grad[start : start + ctx.rows]


class _SumReduce(torch.autograd.Function):
    """All-reduce (sum); backward sums the ranks' gradients, as the value enters each rank's loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.clone().contiguous()
        td.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        result = grad.clone().contiguous()
        td.all_reduce(result)
        return result


def gather(tensor: Tensor) -> Tensor:
    """Concatenate `tensor` [n, ...] of all ranks in rank order -> [n * world, ...]; differentiable; n equal on all ranks."""
    if world() == 1:
        return tensor
    if tensor.requires_grad:
        result: Tensor = _Gather.apply(tensor)
        return result
    pieces = [torch.empty_like(tensor) for _ in range(world())]
    td.all_gather(pieces, tensor.contiguous())
    return torch.cat(pieces)


def gather_uneven(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """As `gather`, for n that differs between ranks (0 included); also returns each rank's n."""
    if world() == 1:
        return tensor, [int(tensor.shape[0])]
    counts = gather(torch.tensor([tensor.shape[0]], device=tensor.device)).tolist()
    longest = max(counts)
    if longest == 0:
        return tensor, counts
    padding = tensor.new_zeros((longest - tensor.shape[0], *tensor.shape[1:]))
    gathered = gather(torch.cat([tensor, padding]))
    pieces = [gathered[index * longest : index * longest + count] for index, count in enumerate(counts)]
    return torch.cat(pieces), counts


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over ranks, differentiable; the same value on each."""
    if world() == 1:
        return tensor
    if tensor.requires_grad:
        result: Tensor = _SumReduce.apply(tensor)
        return result
    result = tensor.clone().contiguous()
    td.all_reduce(result)
    return result


def agree(flag: bool) -> bool:
    """Return whether the flag is set on any rank: the same answer everywhere, so that all ranks take the same branch."""
    if world() == 1:
        return flag
    value = torch.tensor([int(flag)], device=device() if td.get_backend() == "nccl" else "cpu")
    td.all_reduce(value, op=td.ReduceOp.MAX)
    return bool(value.item())


def broadcast_object(value: Any) -> Any:
    """Return rank 0's `value` on every rank (a small picklable object)."""
    if world() == 1:
        return value
    box = [value]
    td.broadcast_object_list(box, src=0)
    return box[0]
