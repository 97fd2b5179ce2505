"""A GPU that a job holds is used or refused, threads come from what was granted, bfloat16 only where it is fast."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rag_hpc.errors import ConfigError
from rag_hpc.models import device
from rag_hpc.models.device import Device, Precision, num_threads, resolve_device, resolve_precision

torch = pytest.importorskip("torch")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives this machine so many GPUs."""

    def give(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return give


@pytest.mark.parametrize(
    ("asked", "env", "number", "want"),
    [
        (Device.auto, {}, 0, "cpu"),
        (Device.auto, {}, 2, "cpu"),  # not given to this job
        (Device.auto, {"CUDA_VISIBLE_DEVICES": ""}, 2, "cpu"),
        (Device.auto, {"SLURM_JOB_GPUS": "0,3", "LOCAL_RANK": "1"}, 2, "cuda:1"),
        (Device.cuda, {"LOCAL_RANK": "0"}, 1, "cuda:0"),
        (Device.cpu, {"SLURM_JOB_GPUS": "0"}, 0, "cpu"),  # said in so many words
    ],
)
def test_rank_takes_the_gpu_of_its_number(
    asked: Device, env: dict[str, str], number: int, want: str, gpus: Any
) -> None:
    gpus(number)
    assert resolve_device(asked, env) == want


@pytest.mark.parametrize(
    ("asked", "env", "number", "said"),
    [
        (Device.cuda, {}, 0, r"device=cuda, but torch .* finds 0 GPUs"),
        (Device.auto, {"SLURM_JOB_GPUS": "2"}, 0, r"SLURM_JOB_GPUS=2, but torch .* finds 0 GPUs.*device=cpu"),
        (Device.auto, {"CUDA_VISIBLE_DEVICES": "0", "LOCAL_RANK": "1"}, 1, "finds 1 GPUs, and this is local rank 1"),
    ],
)
def test_gpu_that_cannot_be_used_is_refused_with_what_was_found(
    asked: Device, env: dict[str, str], number: int, said: str, gpus: Any
) -> None:
    gpus(number)
    with pytest.raises(ConfigError, match=said):
        resolve_device(asked, env)


def test_threads_come_from_the_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "granted_cpus", lambda: 8)
    assert num_threads(0, {}) == 8 and num_threads(3, {}) == 3
    assert num_threads(0, {"SLURM_CPUS_PER_TASK": "6"}) == 6
    assert num_threads(0, {"SLURM_CPUS_PER_TASK": "6", "LOCAL_WORLD_SIZE": "4"}) == 1
    with pytest.raises(ConfigError, match=r"threads=7, but this process was granted 6 CPUs.*cpus_per_task"):
        num_threads(7, {"SLURM_CPUS_PER_TASK": "6"})


@pytest.mark.parametrize(
    ("flags", "vendor", "fast"),
    [
        ({"avx2"}, "AuthenticAMD", False),
        ({"avx512f", "avx512_vnni"}, "GenuineIntel", False),
        ({"avx512_bf16"}, "GenuineIntel", False),
        ({"avx512_bf16"}, "AuthenticAMD", True),
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", True),
    ],
)
def test_bfloat16_is_taken_where_it_is_fast_and_refused_elsewhere(
    flags: set[str], vendor: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SimpleNamespace(flags=" ".join(flags), vendor_id=vendor, Features="")
    monkeypatch.setattr(device, "_cpuinfo", lambda field: getattr(told, field))
    device.cpu_flags.cache_clear()
    try:
        assert resolve_precision(Precision.float32, "cpu") is Precision.float32
        assert resolve_precision(Precision.auto, "cuda:0") is Precision.bfloat16
        assert resolve_precision(Precision.auto, "cpu") is (Precision.bfloat16 if fast else Precision.float32)
        if fast:
            assert resolve_precision(Precision.bfloat16, "cpu") is Precision.bfloat16
        else:
            with pytest.raises(ConfigError, match=r"avx512_bf16, amx_bf16.*precision=float32"):
                resolve_precision(Precision.bfloat16, "cpu")
    finally:
        device.cpu_flags.cache_clear()
