"""Processes: setting them up, and the few collectives that objectives and the trainer need.

Everything works unchanged with one process and no process group. The differentiable gather is the one whose backward
sums over ranks: with it, when each rank returns the mean loss of its own rows, the gradients that data parallelism
averages equal those of one process with the whole batch (and a gather without gradient points the wrong way).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, cast

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
        return _gather(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        if grad.is_cuda:
            own = grad.new_empty((ctx.rows, *grad.shape[1:]))
            td.reduce_scatter_tensor(own, grad.contiguous())
            return own
        grad = grad.clone(memory_format=torch.contiguous_format)  # the caller's gradient is not ours to change
        td.all_reduce(grad)
        start = rank() * ctx.rows
        return grad[start : start + ctx.rows]


class _Shift(torch.autograd.Function):
    """Hand `tensor` to the next rank and take the previous rank's; backward hands the gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _exchange(tensor, to=rank() + 1, source=rank() - 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        return _exchange(grad, to=rank() - 1, source=rank() + 1)


def _exchange(tensor: Tensor, to: int, source: int) -> Tensor:
    received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    work = [td.P2POp(td.isend, tensor.contiguous(), to % world()), td.P2POp(td.irecv, received, source % world())]
    for request in td.batch_isend_irecv(work):
        request.wait()
    return received


def _gather(tensor: Tensor) -> Tensor:
    pieces = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    td.all_gather(pieces, tensor.contiguous())
    return torch.cat(pieces)


class _SumReduce(torch.autograd.Function):
    """All-reduce (sum); backward sums the ranks' gradients, as the value enters each rank's loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.clone().contiguous()
        td.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_over_ranks(*grads)


def gather(tensor: Tensor) -> Tensor:
    """Concatenate `tensor` [n, ...] of all ranks in rank order -> [n * world, ...]; differentiable; n equal on all ranks."""
    if world() == 1:
        return tensor
    return cast(Tensor, _Gather.apply(tensor)) if tensor.requires_grad else _gather(tensor)


def counts(n: int) -> list[int]:
    """Return every rank's `n`."""
    if world() == 1:
        return [n]
    return cast("list[int]", _gather(torch.tensor([n], device=_exchange_device())).tolist())


def gather_uneven(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """As `gather`, for n that differs between ranks (0 included); also returns each rank's n.

    `tensor` must want a gradient on all ranks or on none: the ranks' backward collectives have to meet.
    """
    if world() == 1:
        return tensor, [int(tensor.shape[0])]
    sizes = counts(int(tensor.shape[0]))
    longest = max(sizes)
    if longest == 0:
        return tensor, sizes
    padding = tensor.new_zeros((longest - tensor.shape[0], *tensor.shape[1:]))
    gathered = gather(torch.cat([tensor, padding]))
    pieces = [gathered[index * longest : index * longest + count] for index, count in enumerate(sizes)]
    return torch.cat(pieces), sizes


def shift(tensor: Tensor) -> Tensor:
    """Return the previous rank's `tensor` [n, ...] (rank 0 takes the last one's); differentiable; equal shapes."""
    return tensor if world() == 1 else cast(Tensor, _Shift.apply(tensor))


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over ranks, differentiable; the same value on each."""
    return tensor if world() == 1 else cast(Tensor, _SumReduce.apply(tensor))


def agree(flag: bool) -> bool:
    """Return whether the flag is set on any rank: the same answer everywhere, so that all ranks take the same branch."""
    return agree_each([flag])[0]


def agree_each(flags: list[bool]) -> list[bool]:
    """As `agree`, for several flags with one exchange."""
    if world() == 1:
        return flags
    values = torch.tensor([int(flag) for flag in flags], device=_exchange_device())
    td.all_reduce(values, op=td.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def _exchange_device() -> torch.device:
    return device() if td.get_backend() == "nccl" else torch.device("cpu")


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's `value` (a small picklable object) in rank order, on every rank."""
    if world() == 1:
        return [value]
    box: list[Any] = [None] * world()
    td.all_gather_object(box, value)
    return box


def attempt(action: Callable[[], object]) -> list[str | None]:
    """Run an action on every rank; return what went wrong on each as one line, None for nothing. Collective."""
    failure = None
    try:
        action()
    except Exception as error:
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return gather_objects(failure)


def broadcast_object(value: Any) -> Any:
    """Return rank 0's `value` on every rank (a small picklable object)."""
    if world() == 1:
        return value
    box = [value]
    td.broadcast_object_list(box, src=0)
    return box[0]
