"""Test a GPU before its first job: one window of a network, compared with the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import OutOfMemory
from engine.separation.cuda.graphs import NO_TUNING
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import is_out_of_memory
from engine.separation.schedule.memory_backoff import Executor

_LEAST_SNR_DB = {"fp32": 60.0, "tf32": 45.0, "fp16": 45.0}
"""Single precision gives more than 100 dB, half about 60; a driver or kernel with a defect gives far less."""


def fault_of(device: str, model: LoadedModel, precision: str = "fp32") -> str | None:
    """Return why a GPU must not be used in a precision, or None. A lack of memory may pass and is not a fault."""
    shape = model.shapes(None)[0]
    generator = torch.Generator().manual_seed(0)
    window = 0.2 * torch.randn(model.audio_channels, shape.window_samples(shape.segment_samples), generator=generator)
    try:
        found = _compute(torch.device(device), model, window, precision)
    except OutOfMemory:
        return None
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        if is_out_of_memory(error):
            return None
        return f"it cannot run the network: {(str(error).strip() or repr(error)).splitlines()[0][:200]}"
    snr_db = _snr_db(_compute(torch.device("cpu"), model, window, "fp32"), found)
    return None if snr_db >= _LEAST_SNR_DB[precision] else f"it computes wrongly: {snr_db:.0f} dB against the CPU"


def _compute(device: torch.device, model: LoadedModel, window: Tensor, precision: str) -> Tensor:
    """Return the stems of a window, on the CPU, computed by the path that jobs use."""
    executor = Executor(device, precision=precision, max_batch=1, allow_cpu=False, native=None, tuning=NO_TUNING)
    stems: list[Tensor] = []
    with torch.no_grad():
        executor.compute(model, 0, [window], lambda _, computed: stems.append(computed.float().cpu()))
    return stems[0]


def _snr_db(expected: Tensor, found: Tensor) -> float:
    """Return -inf for results that are not finite."""
    error = (found - expected).double().square().sum()
    if not torch.isfinite(error):
        return float("-inf")
    return float(10 * torch.log10(expected.double().square().sum() / error.clamp_min(1e-30)))
