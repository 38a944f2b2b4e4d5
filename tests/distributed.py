"""Runs a function in several gloo processes on this machine."""

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

# One process imports these for all; the ranks are forks of it.
multiprocessing.set_forkserver_preload(["torch.distributed", "verimargin", "verimargin_insightface"])


def on_ranks(ranks, function, *arguments):
    """function(rank, *arguments) on each rank of a process group; the list of what the ranks returned."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, _free_port(), function, arguments, folder)
        torch.multiprocessing.start_processes(_run, arguments, nprocs=ranks, start_method="forkserver")
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(ranks)]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(rank, ranks, port, function, arguments, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    failed = False
    try:
        torch.save(function(rank, *arguments), Path(folder, str(rank)))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        failed = True
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failed)  # taking the group down hangs at times up to torch 2.7
