"""What the kernel still allows after `engine.process.confinement` has restricted a process."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import Storage
from engine.media import sandbox
from engine.media.limits import MediaLimits
from engine.media.sandbox import run_child
from engine.pool.devices import find_devices
from engine.pool.local import worker_environment
from engine.process.environment import computing_environment
from engine.worker.protocol import SECRET_VARIABLE, WorkerConfig
from tests.fixtures.songs import make_song

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these restrictions are Linux'")

ROOT = Path(__file__).parents[3]
NOBODY = 65534

ATTEMPTS = {
    "read a file": "open('/etc/passwd').read()",
    "write a file": "open('/tmp/stemify-sandbox-test', 'w')",
    "remove a file": "os.unlink('/tmp/stemify-no-such-file')",
    "change a mode": "os.chmod('/tmp', 0o777)",
    "list a folder": "os.listdir('/')",
    "fork": "os.fork() or os._exit(0)",
    "start a thread": "thread = threading.Thread(target=os.getpid); thread.start(); thread.join()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "open a TCP socket": "socket.socket()",
    "open a UDP socket": "socket.socket(type=socket.SOCK_DGRAM)",
    "open a unix socket": "socket.socket(socket.AF_UNIX)",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "limit its parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
}


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import os, resource, socket, sys, threading\n{program}", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_confined_process_cannot(attempt: str) -> None:
    """Each is possible before, and an error after."""
    code = ATTEMPTS[attempt]
    free = "" if attempt in ("remove a file", "start a program") else f"{code}\n"
    done = run_python(
        "from engine.process.confinement import confine\n"
        f"{free}"
        "print('before', confine(), flush=True)\n"
        f"try:\n    {code}\nexcept (OSError, RuntimeError) as error:\n    print('refused', type(error).__name__)\n"
        "else:\n    print('done')"
    )
    assert done.stdout.splitlines()[-1] in ("refused PermissionError", "refused RuntimeError"), done


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_threads_of_confined_process_are_confined(uid: int | None) -> None:
    if uid is not None and os.getuid() != 0:
        pytest.skip("only root can become another user")
    done = run_python(
        "import json\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from engine.process.confinement import confine\n"
        "def attempt():\n"
        "    try:\n        open('/etc/passwd')\n"
        "    except OSError:\n        return 'refused'\n"
        f"if {uid} is not None:\n    os.setuid({uid})\n"
        "threads = ThreadPoolExecutor(1)\n"
        "names = confine(lambda: threads.submit(int).result())\n"
        "print(json.dumps([names, threads.submit(attempt).result()]), flush=True)\n"
        "os._exit(0)"
    )
    names, answer = json.loads(done.stdout)
    assert answer == "refused" and {"no_new_privs", "seccomp"} <= set(names), done


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("_forbid_paths", "open('/etc/passwd')"),
        ("_forbid_paths", "socket.create_connection(('127.0.0.1', int(sys.argv[1])))"),
        ("_forbid_paths", "os.kill(os.getppid(), 0)"),
        ("_leave_network", "socket.create_connection(('127.0.0.1', int(sys.argv[1])))"),
        ("_drop_capabilities", "os.chown('/etc/passwd', 1, 1)"),
        ("_forbid_syscalls", "os.fork()"),
    ],
)
def test_single_restriction_holds_without_the_others(step: str, code: str) -> None:
    """Where a kernel lacks one of them the others have to do."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        done = run_python(
            "from engine.process import confinement\n"
            "confinement.forbid_new_privileges()\n"
            f"if not confinement.{step}():\n    print('missing')\n    sys.exit()\n"
            f"try:\n    {code}\nexcept OSError:\n    print('refused')\n",
            str(server.getsockname()[1]),
        )
    if done.stdout == "missing\n":
        pytest.skip("not offered by this kernel")
    assert done.stdout == "refused\n", done


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_unprivileged_process_is_confined_too() -> None:
    done = run_python(
        "from engine.process.confinement import confine\n"
        "import ctypes, json\n"
        f"os.setuid({NOBODY})\n"
        "names = confine()\n"
        "try:\n    os.fork()\nexcept OSError:\n    print(json.dumps(names))\n",
    )
    assert {"nproc", "no_new_privs"} <= set(json.loads(done.stdout)), done


def test_media_child_is_confined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log names what is in force."""
    make_song(tmp_path / "song.wav", seconds=0.1)
    sandbox._log_sandbox.cache_clear()
    with caplog.at_level(logging.INFO):
        run_child("probe", tmp_path / "song.wav", None, MediaLimits())
    (line,) = [record.getMessage() for record in caplog.records if "sandbox" in record.getMessage()]
    assert "no_new_privs" in line and "seccomp" in line


@pytest.mark.parametrize("name", [b"caf\xe9.wav", "Café.wav".encode(), b"a\nb.wav", b"\xff\xfe.wav"])
def test_song_of_any_file_name_is_read(tmp_path: Path, name: bytes) -> None:
    make_song(tmp_path / "song.wav", seconds=0.1)
    song = (tmp_path / "song.wav").rename(tmp_path / os.fsdecode(name))
    assert run_child("probe", song, None, MediaLimits())["samples"] == 4410


def test_song_is_read_in_a_latin1_locale(tmp_path: Path) -> None:
    locale = tmp_path / "de_DE.ISO-8859-1"
    made = subprocess.run(
        ["localedef", "-c", "-f", "ISO-8859-1", "-i", "de_DE", str(locale)], capture_output=True, check=False
    )
    if not locale.is_dir():
        pytest.skip(f"localedef made no locale: {made.stderr[-100:]!r}")
    make_song(tmp_path / "song.wav", seconds=0.1)
    (tmp_path / "song.wav").rename(tmp_path / "Café.wav")
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; from pathlib import Path\n"
            "from engine.media.sandbox import run_child\n"
            "from engine.media.limits import MediaLimits\n"
            "assert sys.getfilesystemencoding() == 'iso8859-1', sys.getfilesystemencoding()\n"
            "print(run_child('probe', Path(sys.argv[1]), None, MediaLimits())['samples'])",
            str(tmp_path / "Café.wav"),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout == "4410\n", done.stderr


def test_process_ends_when_its_parent_is_gone_already() -> None:
    done = run_python(
        "from engine.process.confinement import die_with_parent\ndie_with_parent(parent_pid=1)\nprint('alive')"
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_stopped_process_dies_with_its_parent() -> None:
    program = (
        "import subprocess, sys\n"
        "child = 'from engine.process.confinement import die_with_parent;'\n"
        "child += 'die_with_parent(); print(flush=True); input()'\n"
        "process = subprocess.Popen([sys.executable, '-c', child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None and parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child goes on alone")


def _runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_other_process_of_the_user_cannot_read_environment() -> None:
    """The parent holds a secret; its child reads `/proc`."""
    program = (
        "import ctypes\n"
        "from engine.process.confinement import forbid_inspection\n"
        f"os.setuid({NOBODY})\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # setuid has forbidden it\n"
        "if sys.argv[1] == 'closed':\n    forbid_inspection()\n"
        "if os.fork():\n    os.wait(); os._exit(0)\n"
        "try:\n    print(open(f'/proc/{os.getppid()}/environ').read())\n"
        "except PermissionError:\n    print('refused')"
    )
    assert "PATH=" in run_python(program, "open").stdout
    assert run_python(program, "closed").stdout == "refused\n"


ENTRY_POINTS = {
    "engine.worker": "runpy.run_module('engine.worker', run_name='__main__')",
    "engine.gateway": "runpy.run_module('engine.gateway', run_name='__main__')",
    "engine": "runpy.run_module('engine', run_name='__main__')",
    "bot": "import bot.__main__ as main; main.configuration.load = sys.exit; main.run()",
}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_point_forbids_inspection(name: str) -> None:
    """Each starts with arguments that it refuses."""
    done = run_python(
        "import ctypes, runpy\n"
        f"try:\n    {ENTRY_POINTS[name]}\nexcept BaseException as error:\n    print(type(error).__name__)\n"
        "print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))",
        "nonsense",
    )
    assert "dumpable 0" in done.stdout, done


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s1", "AWS_SESSION_TOKEN": "s2", "HF_TOKEN": "s3", "GITHUB_TOKEN": "s4",
    "STEMIFY_DISCORD__TOKEN": "s5", "DATABASE_URL": "s6", "AZURE_CLIENT_SECRET": "s7", "NVIDIA_API_KEY": "s8",
}  # fmt: skip
USED = {"CUDA_VISIBLE_DEVICES": "1", "OMP_WAIT_POLICY": "passive", "PATH": "/bin", "https_proxy": "http://proxy"}


STORAGE = Storage(
    url="s3://b", redirect=False, redirect_lifetime_s=1, part_bytes=8 << 20, request_timeout_s=1, patience_s=1
)


def _config(storage: Storage | None) -> WorkerConfig:
    return WorkerConfig(
        device="cpu", data_dir="/data", cache_dir="/cache", storage=storage, model_memory_bytes=1, heartbeat_s=1,
        decode_timeout_s=1, child_memory_bytes=1, input_bytes=1,
    )  # fmt: skip


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set variables that an operator may have for other programs."""
    for name, value in (SECRETS | USED | {"AWS_REGION": "eu-1"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("shell")
def test_worker_environment_has_no_foreign_secrets() -> None:
    environment = worker_environment(_config(None))
    assert not SECRETS.keys() & environment.keys()
    assert USED.items() <= environment.items()
    assert environment["TORCH_HOME"] == "/cache/torch"


@pytest.mark.usefixtures("shell")
def test_worker_environment_has_storage_variables_if_used() -> None:
    role = worker_environment(_config(STORAGE))
    assert role["AWS_SECRET_ACCESS_KEY"] == "s1" and role["AZURE_CLIENT_SECRET"] == "s7"
    own = STORAGE.model_copy(update={"access_key_id": "me", "secret_access_key": SecretStr("own")})
    keys = worker_environment(_config(own))
    assert keys[SECRET_VARIABLE] == "own" and keys["AWS_REGION"] == "eu-1"
    assert not SECRETS.keys() & keys.keys()


@pytest.mark.usefixtures("shell")
def test_compiler_environment_has_no_secrets() -> None:
    environment = computing_environment()
    assert not (SECRETS.keys() | {"https_proxy", "AWS_REGION"}) & environment.keys()
    assert environment["PATH"] == "/bin"


@pytest.mark.usefixtures("shell")
async def test_list_of_gpus_is_made_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.py").write_text("import json, os; print(json.dumps(['cuda:' + ' '.join(os.environ)]))")
    monkeypatch.setattr("engine.pool.devices._DEVICE_LIST", tmp_path / "list.py")
    monkeypatch.setattr("engine.pool.devices.torch_build", lambda: "cuda")
    (names,) = await find_devices(["auto"])
    assert "PATH" in names and not SECRETS.keys() & set(names.split())
