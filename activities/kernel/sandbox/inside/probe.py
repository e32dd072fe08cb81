"""Runs inside a sandbox: try what must not work, report each as a line of JSON. Standard library only."""

import ctypes
import errno
import json
import os
import platform
import socket
from collections.abc import Callable

Result = tuple[bool, str]

libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
NUMBERS = {
    "keyctl": 219 if ARM else 250,
    "add_key": 217 if ARM else 248,
    "request_key": 218 if ARM else 249,
    "unshare": 97 if ARM else 272,
    "clone": 220 if ARM else 56,
    "setns": 268 if ARM else 308,
    "mount": 40 if ARM else 165,
    "ptrace": 117 if ARM else 101,
    "process_vm_readv": 270 if ARM else 310,
    "bpf": 280 if ARM else 321,
    "io_uring_setup": 425,
    "fsopen": 430,
    "clone3": 435,
}
REFUSED = (errno.EPERM, errno.ENOSYS)
NEW_USER = 0x10000000


def refused(name: str, *arguments: int) -> Result:
    """Whether the filter, not the kernel's own checks, refuses the call."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_long(value) for value in arguments))
    code = ctypes.get_errno()
    if result == 0 and name == "clone":
        os._exit(0)
    return result == -1 and code in REFUSED, f"{name}: {'allowed' if result != -1 else errno.errorcode.get(code, code)}"


def all_refused(*calls: tuple[str, *tuple[int, ...]]) -> Result:
    results = [refused(*call) for call in calls]
    return all(ok for ok, _ in results), ", ".join(text for _, text in results)


def fails(what: str, action: Callable[[], object], allowed_errors: tuple[int, ...]) -> Result:
    try:
        action()
    except OSError as error:
        code = error.errno or 0
        return code in allowed_errors, f"{what}: {errno.errorcode.get(code, code)}"
    return False, f"{what}: possible"


def family_refused(family: int) -> Result:
    return fails(f"socket({family})", lambda: socket.socket(family, socket.SOCK_STREAM).close(), (errno.EPERM,))


def network() -> Result:
    interfaces = [name for _, name in socket.if_nameindex()]
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(2)
        connected, text = fails("connect", lambda: tcp.connect(("192.0.2.1", 80)), (errno.ENETUNREACH, errno.EHOSTUNREACH))
    extra = [name for name in interfaces if name not in ("lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0")]
    return connected and not extra, f"{text}; interfaces {interfaces}"


def host_files() -> Result:
    found = [path for path in (os.path.join("/root", ".ssh"), "/home", "/var/lib/docker", "/run", "/mnt") if listed(path)]
    sockets = [path for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private") if os.path.exists(path)]
    found = [path for path in found if path not in ("/home", "/run") or unexpected(path)]
    return not found and not sockets, f"seen {found + sockets}"


def listed(path: str) -> bool:
    try:
        return os.path.isfile(path) or bool(os.listdir(path))
    except OSError:
        return False


def unexpected(path: str) -> bool:
    """Debian's own content of these places is small and known."""
    return bool(set(os.listdir(path)) - {"gen4", "lock", "mount", "systemd", "shm", "sudo"})


def sysfs() -> Result:
    ways = [path for path in ("/sys/kernel/security", "/sys/fs/cgroup", "/sys/firmware") if writable(path)]
    return not ways, f"writable {ways}"


def writable(path: str) -> bool:
    try:
        return os.access(path, os.W_OK) or any(os.access(os.path.join(path, name), os.W_OK) for name in os.listdir(path))
    except OSError:
        return False


def host_proc() -> Result:
    """Only our own few processes are visible, and the kernel's switches cannot be set."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    paths = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches")
    switches = [path for path in paths if opens(path)]
    return len(pids) <= 4 and max(pids) < 100 and not switches, f"{len(pids)} processes; writable {switches}"


def opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
        return True
    except OSError:
        return False


def status(field: str) -> str:
    with open("/proc/self/status") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(field + ":"))


def capabilities() -> Result:
    sets = {name: status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return all(int(value, 16) == 0 for value in sets.values()), str(sets)


def no_new_privs() -> Result:
    values = status("NoNewPrivs"), status("Seccomp")
    return values == ("1", "2"), f"NoNewPrivs {values[0]}, Seccomp {values[1]}"


def identity() -> Result:
    ids = (*os.getresuid(), *os.getresgid())
    groups = [group for group in os.getgroups() if group not in (10001, 65534)]
    return set(ids) == {10001} and not groups, f"ids {ids}, groups {groups}"


def read_only_root() -> Result:
    places = ("/", "/usr", "/etc", "/gen4", "/env", "/dev", "/var/tmp", "/root")
    found = [path for path in places if creates(path)]
    return not found, f"writable {found}"


def creates(folder: str) -> bool:
    path = os.path.join(folder, ".gen4-probe")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        os.unlink(path)
        return True
    except OSError:
        return False


def devices() -> Result:
    usual = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"}
    extra = sorted(set(os.listdir("/dev")) - usual - {"tty", "urandom", "zero"})
    return not extra, f"beside the usual: {extra}"


def environment() -> Result:
    extra = sorted(set(os.environ) - {"GEN4_PROBE", "PWD", "HOSTNAME", "HOME", "PATH", "LC_CTYPE"})
    return not extra, f"variables {extra}"


def descriptors() -> Result:
    held = [int(name) for name in os.listdir("/proc/self/fd")]
    targets = {}
    for descriptor in held:
        try:
            targets[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
    extra = {number: target for number, target in targets.items() if number > 2}
    return not extra, f"open {extra}"


PROBES: dict[str, Callable[[], Result]] = {
    "network": network,
    "keyring": lambda: all_refused(("keyctl", 0, -3, 0), ("add_key", 0, 0, 0, 0, -3), ("request_key", 0, 0, 0, -3)),
    "userns": lambda: all_refused(
        ("unshare", NEW_USER), ("clone", NEW_USER | 17, 0, 0, 0, 0), ("setns", -1, 0), ("clone3", 0, 0)
    ),
    "vsock": lambda: family_refused(40),
    "io_uring": lambda: refused("io_uring_setup", 1, 0),
    "ptrace": lambda: all_refused(("ptrace", 0, 0, 0, 0), ("process_vm_readv", 1, 0, 0, 0, 0, 0)),
    "mount": lambda: all_refused(("mount", 0, 0, 0, 0, 0), ("fsopen", 0, 0)),
    "bpf": lambda: refused("bpf", 0, 0, 0),
    "host_files": host_files,
    "sysfs": sysfs,
    "host_proc": host_proc,
    "capabilities": capabilities,
    "no_new_privs": no_new_privs,
    "identity": identity,
    "read_only_root": read_only_root,
    "devices": devices,
    "environment": environment,
    "descriptors": descriptors,
}


def main() -> None:
    for name, probe in PROBES.items():
        try:
            ok, detail = probe()
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        print(json.dumps({"name": name, "ok": ok, "detail": detail}), flush=True)


if __name__ == "__main__":
    main()
