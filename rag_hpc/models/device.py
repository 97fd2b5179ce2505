"""Where a model runs: its device, its threads, and the arithmetic that this CPU is good at."""

from __future__ import annotations

import enum
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rag_hpc.core.record import granted_cpus
from rag_hpc.errors import ConfigError

_HIDDEN = ("", "-1", "NoDevFiles")  # what Slurm and CUDA call no device at all


class Device(enum.Enum):
    """What a model may run on; auto takes the rank's GPU where the job has one, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(enum.Enum):
    """The arithmetic of the forward pass; auto takes bfloat16 where the device is made for it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"  # a tier of its own: cosines of 0.99 to float32's vectors, where the others hold 0.999


def resolve_device(asked: Device, env: Mapping[str, str] = os.environ) -> str:
    """Return torch's name of the device, of several GPUs the one of this rank.

    Raises ConfigError for a GPU that was asked for, or given to the job, and cannot be used: the job would hold it and
    run on the CPU.
    """
    if asked is Device.cpu:
        return "cpu"
    given = {name: env[name] for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES") if name in env}
    given = {name: value for name, value in given.items() if value not in _HIDDEN}
    if asked is Device.auto and not given:
        return "cpu"
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank = int(env.get("LOCAL_RANK", "0"))
    if rank >= number:
        why = " ".join(f"{name}={value}" for name, value in given.items()) or f"device={asked.value}"
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise ConfigError(
            f"{platform.node()}: {why}, but torch {torch.__version__}, made for {built}, finds {number} GPUs, and this "
            f"is local rank {rank}; install a torch for the node's driver (nvidia-smi), start no more ranks than GPUs, "
            "or set cluster.gres=null and this stage's device=cpu"
        )
    return f"cuda:{rank}"


def resolve_precision(asked: Precision, device: str) -> Precision:
    """Return the arithmetic to use. Raises ConfigError for one that this CPU only has in software."""
    if asked is Precision.int8 and device != "cpu":
        raise ConfigError("precision=int8 is for CPUs; on a GPU take bfloat16, or auto")
    fast = device != "cpu" or has_fast_bfloat16()
    if asked is Precision.auto:
        return Precision.bfloat16 if fast else Precision.float32
    if asked is Precision.bfloat16 and not fast:
        raise ConfigError(
            f"precision=bfloat16: this CPU ({cpu_class()}) has no fast instructions for it (avx512_bf16, amx_bf16), "
            "and would take ten times as long; set stage.encode.precision=float32, or auto"
        )
    return asked


def has_vnni() -> bool:
    """Return whether products of eight bits are summed in 32, as those of all CPUs since about 2019 are."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"})


def has_fast_bfloat16() -> bool:
    """Return whether this CPU multiplies faster in bfloat16 than in float32."""
    return _has_bfloat16(cpu_flags(), _vendor())


def is_slow_for_mkl() -> bool:
    """Return whether MKL's float32 is behind oneDNN's: on AMD's AVX-512, of which it takes no full advantage."""
    return "avx512f" in cpu_flags() and _vendor() == "AuthenticAMD"


def num_threads(asked: int, env: Mapping[str, str] = os.environ) -> int:
    """Return a process's threads; 0 asks for its share of the CPUs that were granted, never of the machine's.

    Raises ConfigError for more than were granted.
    """
    per_task = env.get("SLURM_CPUS_PER_TASK", "")
    granted = min(granted_cpus(), int(per_task)) if per_task.isdecimal() else granted_cpus()
    if asked > granted:
        raise ConfigError(
            f"threads={asked}, but this process was granted {granted} CPUs; lower stage.encode.threads (0 takes what "
            "was granted), or raise cluster.cpus_per_task"
        )
    return asked or max(1, granted // int(env.get("LOCAL_WORLD_SIZE", "1")))


def cpu_class() -> str:
    """Return the CPU's class: vectors of one class are equal bit for bit, and rates are comparable."""
    flags = cpu_flags()
    known = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
    return next((name for name in known if name in flags), platform.machine())


@cache
def cpu_flags() -> frozenset[str]:
    """Return what /proc/cpuinfo says that the CPU can do; empty where it says nothing."""
    return frozenset(_cpuinfo("flags").split()) | frozenset(_cpuinfo("Features").split())


def _vendor() -> str:
    return _cpuinfo("vendor_id")


def _has_bfloat16(flags: frozenset[str], vendor: str) -> bool:
    """Intel's avx512_bf16 alone is no faster than float32; its tiles are, and AMD's."""
    return "amx_bf16" in flags or ("avx512_bf16" in flags and vendor == "AuthenticAMD")


@cache
def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == field), "")
