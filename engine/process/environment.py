"""The environments of child processes: lists of what each needs, so that no other secret of the operator gets there."""

from __future__ import annotations

import os

_COMPUTING = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LANGUAGE", "TZ", "XDG_CACHE_HOME", "VIRTUAL_ENV",
        "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES",
        "CXX", "CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX",
    }
)  # fmt: skip
_COMPUTING_PREFIXES = (
    "LC_", "PYTHON", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "ATEN_", "TORCH",
    "PYTORCH_", "CUDA", "CUBLAS", "CUDNN", "NVIDIA_", "TRITON_", "HIP_", "ROCR_", "ROCM_", "HSA_", "AMD_", "GPU_",
)  # fmt: skip
_NETWORK = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_MODEL_DOWNLOAD = frozenset({"HF_ENDPOINT", "HF_HUB_OFFLINE"})
_STORAGE_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "IDENTITY_", "MSI_")
_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL")


def computing_environment() -> dict[str, str]:
    """Return the variables that Python, torch and a compiler read."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _COMPUTING or (name.startswith(_COMPUTING_PREFIXES) and not _is_secret(name))
    }


def network_environment() -> dict[str, str]:
    """Proxies, certificates, and where models are downloaded from."""
    wanted = _NETWORK | _MODEL_DOWNLOAD
    return {name: value for name, value in os.environ.items() if name.upper() in wanted}


def storage_environment(*, secrets: bool) -> dict[str, str]:
    """Return the variables of the object stores' own clients. `secrets`: also the ones with credentials."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_STORAGE_PREFIXES) and (secrets or not _is_secret(name))
    }


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS)


def ray_environment() -> dict[str, str]:
    """Ray's settings, with its token."""
    return {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "GRPC_"))}
