"""Runs a function in several gloo processes on this machine."""

import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist


def on_ranks(ranks, function, *arguments):
    """function(rank, *arguments) on each rank of a process group; the list of what the ranks returned."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run, (ranks, _free_port(), function, arguments, folder), nprocs=ranks)
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(ranks)]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(rank, ranks, port, function, arguments, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    torch.save(function(rank, *arguments), Path(folder, str(rank)))
    dist.barrier()
    os._exit(0)  # taking the group down hangs at times up to torch 2.7
