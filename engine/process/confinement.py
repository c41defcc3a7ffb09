"""Kernel restrictions on this process (Linux, no privileges needed). Elsewhere nothing here has an effect.

A restriction that the kernel does not offer is left out; `confine` returns the ones in force.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION_FLAG = 1
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""From which version on how many of the lowest bits are rights on files."""
_LANDLOCK_TCP_VERSION, _LANDLOCK_TCP = 4, 0b11
_LANDLOCK_SCOPE_VERSION, _LANDLOCK_SCOPE = 6, 0b11

_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_SECCOMP_RET_ALLOW = 0x7FFF0000
_SECCOMP_RET_ERRNO = 0x00050000
_X32_SYSCALLS = 0x40000000
_BPF_LOAD_WORD, _BPF_JUMP_EQUAL, _BPF_JUMP_AT_LEAST, _BPF_RETURN = 0x20, 0x15, 0x35, 0x06
_EPERM = 1

_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
"""By machine: the audit number, the column in the table of system calls, the number of `seccomp`."""

_DENIED_SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    # processes and threads
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    # network
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "connect": (42, 203),
    # files by path
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "open_by_handle_at": (304, 265), "truncate": (76, 45), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "chdir": (80, 49), "chroot": (161, 51),
    # the kernel itself
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142),
}  # fmt: skip


def die_with_parent(how: signal.Signals = signal.SIGKILL, parent_pid: int | None = None) -> None:
    """Ask the kernel for a signal when the thread that started this process ends.

    End at once if `parent_pid` is given and that process has already ended.
    """
    _prctl(_PR_SET_PDEATHSIG, how)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)


def forbid_inspection() -> None:
    """Close this process's memory, environment and descriptors to other processes of the same user; no core dumps."""
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> bool:
    """Make set-id programs run without their privileges, here and in all later children."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def confine(start_threads: Callable[[], None] | None = None) -> list[str]:
    """Give up files, network, new processes and privileges for good; return the restrictions in force.

    Open descriptors keep working, paths do not. Call it with one thread, after all imports; threads can only be started
    by `start_threads`, which have the same restrictions.
    """
    steps: dict[str, Callable[[], bool]] = {
        "netns": _leave_network,  # needs a process of one thread
        "no capabilities": _drop_capabilities,
        "no_new_privs": forbid_new_privileges,
        "landlock": _forbid_paths,
    }
    last_steps: dict[str, Callable[[], bool]] = {
        "nproc": partial(_forbid_processes, is_root=os.getuid() == 0),
        "seccomp": _forbid_syscalls,  # last: it forbids some of the others
    }
    is_linux = sys.platform == "linux"
    if is_linux:
        forbid_inspection()
    in_force = [name for name, step in steps.items() if is_linux and step()]
    if start_threads is not None:
        start_threads()
    return in_force + [name for name, step in last_steps.items() if is_linux and step()]


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    zero = ctypes.c_ulong(0)
    return bool(_libc().prctl(option, ctypes.c_ulong(value), zero, zero, zero) == 0)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(_libc().syscall(ctypes.c_long(number), *passed))


def _forbid_processes(*, is_root: bool) -> bool:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return not is_root  # the kernel does not enforce it for root


def _leave_network() -> bool:
    return bool(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _drop_capabilities() -> bool:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    return bool(_libc().capset(header, ctypes.create_string_buffer(24)) == 0)


def _forbid_paths() -> bool:
    """Landlock without a single rule."""
    version = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION_FLAG)
    if version < 1:
        return False
    bits = max(bits for since, bits in _LANDLOCK_FILE_RIGHTS.items() if since <= version)
    tcp = _LANDLOCK_TCP if version >= _LANDLOCK_TCP_VERSION else 0
    scope = _LANDLOCK_SCOPE if version >= _LANDLOCK_SCOPE_VERSION else 0
    attribute = struct.pack("=QQQ", (1 << bits) - 1, tcp, scope)
    ruleset = _syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(attribute, len(attribute)), len(attribute), 0
    )
    if ruleset < 0:
        return False
    in_force = _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return in_force


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _forbid_syscalls() -> bool:
    """Answer EPERM to the system calls of the table, and to all of another architecture."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None or struct.calcsize("P") != 8:
        return False
    audit_number, column, seccomp_number = architecture
    numbers = [row[column] for row in _DENIED_SYSCALLS.values() if row[column] is not None]
    program = _filter(audit_number, [number for number in numbers if number is not None])
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_program = _FilterProgram(len(program) // 8, ctypes.cast(buffer, ctypes.c_char_p))
    libc = _libc()
    return bool(
        libc.syscall(
            ctypes.c_long(seccomp_number),
            ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER),
            ctypes.c_ulong(_SECCOMP_FILTER_FLAG_TSYNC),
            ctypes.byref(filter_program),
        )
        == 0
    )


def _filter(audit_number: int, denied: list[int]) -> bytes:
    """Return the BPF program: each instruction is code, jump if true, jump if false, operand."""
    to_denial = len(denied) + 1  # from the first comparison of a number, over the others and the return of "allow"
    program = [
        struct.pack("=HBBI", _BPF_LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
        struct.pack("=HBBI", _BPF_JUMP_EQUAL, 0, to_denial + 2, audit_number),
        struct.pack("=HBBI", _BPF_LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        struct.pack("=HBBI", _BPF_JUMP_AT_LEAST, to_denial, 0, _X32_SYSCALLS),
    ]
    for position, number in enumerate(denied):
        program.append(struct.pack("=HBBI", _BPF_JUMP_EQUAL, len(denied) - position, 0, number))
    program.append(struct.pack("=HBBI", _BPF_RETURN, 0, 0, _SECCOMP_RET_ALLOW))
    program.append(struct.pack("=HBBI", _BPF_RETURN, 0, 0, _SECCOMP_RET_ERRNO | _EPERM))
    return b"".join(program)
