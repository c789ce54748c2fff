"""Attempts to get out of a sandbox: what each does, to whom, and how it is told to have succeeded.

An attempt is a piece of Python that a hostile shard runs in a process of its own. It has ``W``, what the test prepared for it,
``call`` for system calls, and ends with ``ok`` true when it got what it wanted, or raises. None of them harms the machine where
it succeeds: what would change something for all is opened for writing, or set to what it is. ``table()`` is docs/security.md's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TARGETS = ("a process of the machine", "another shard", "the template", "the keeper", "the node")


@dataclass(frozen=True, slots=True)
class Attempt:
    name: str
    group: str
    source: str
    needs: str = ""  # what not every machine has, without which it does not succeed anywhere
    template_may: str = ""  # why the same is no escape for a template, which makes namespaces for its forks

    @property
    def key(self) -> str:
        return f"{self.group}: {self.name}"


PRELUDE = r"""
import ctypes, errno, fcntl, json, mmap, os, platform, resource, select, signal, socket, stat, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
def checked(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
def call(x86, arm, *arguments):
    number = x86 if X86 else arm
    return checked(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
def memory_of(pid):
    with open(f"/proc/{pid}/maps") as maps:
        start = next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith("[stack]") or "[heap]" in line)
    return start
ok = False
"""

# -- against another process, by its number on the machine ---------------------------------------------------------
_OF_PROCESSES = {
    "read its memory": """
with open(f"/proc/{pid}/mem", "rb", 0) as memory:
    memory.seek(memory_of(pid)); ok = len(memory.read(8)) == 8
""",
    "copy its memory (process_vm_readv)": """
buffer = ctypes.create_string_buffer(8)
class Vec(ctypes.Structure): _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
here, there = Vec(ctypes.addressof(buffer), 8), Vec(memory_of(pid), 8)
ok = call(310, 270, pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 8
""",
    "read its environment": """
with open(f"/proc/{pid}/environ", "rb") as file: ok = len(file.read()) > 0
""",
    "list and reopen its descriptors": """
names = os.listdir(f"/proc/{pid}/fd"); os.stat(f"/proc/{pid}/fd/{names[0]}"); ok = True
""",
    "take its descriptors (pidfd_getfd)": """
ok = call(438, 438, os.pidfd_open(pid), 0, 0) >= 0
""",
    "trace it (ptrace)": """
ok = checked(libc.ptrace(ctypes.c_long(0x4206), ctypes.c_long(pid), None, None)) == 0
""",
    "signal it": """
os.kill(pid, 0); ok = True
""",
    "reach its files through /proc/PID/root": """
ok = "etc" in os.listdir(f"/proc/{pid}/root")
""",
    "enter its namespaces (setns)": """
descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
ok = checked(libc.setns(descriptor, 0x00020000)) == 0
""",
}

_FILES = {
    "read a secret of another component": 'ok = open(W["secret"]).read() == "marker"',
    "read /etc/shadow": 'ok = bool(open("/etc/shadow").read())',
    "list the home of the user": 'ok = W["home_entry"] in os.listdir(os.path.expanduser("~root"))',
    "read the manifest": 'ok = bool(open(W["manifest"]).read())',
    "read the node's state folder": 'ok = bool(os.listdir(W["state"]))',
    "change the application's code": 'ok = os.open(W["code"], os.O_WRONLY) >= 0',
    "add a module beside the application's": 'open(W["code"] + ".tmp", "w").close(); os.unlink(W["code"] + ".tmp"); ok = True',
    "change the interpreter's library": "ok = os.open(os.__file__, os.O_WRONLY) >= 0",
    "link to a secret and read through the link": """
link = f"/tmp/link-{os.getpid()}"; os.symlink(W["secret"], link)
try: ok = open(link).read() == "marker"
finally: os.unlink(link)
""",
    "hard-link a secret into the temporary folder": """
link = f"/tmp/hard-{os.getpid()}"; os.link(W["secret"], link); os.unlink(link); ok = True
""",
    "swap a shared file for a link in a race (TOCTOU)": """
there = W["shared"] + "/plan"; other = there + f".{os.getpid()}"
os.symlink(W["secret"], other); os.replace(other, there); ok = os.path.islink(there)
""",
    "leave a file in /tmp for others": 'open(W["dropped"], "w").close(); ok = "outside"',
    "leave a file in /dev/shm for others": 'open(W["dropped_shm"], "w").close(); ok = "outside"',
    "read another's file in /dev/shm": 'ok = open(W["shm_file"]).read() == "marker"',
    "open by handle past every mount": """
handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128)); mount = ctypes.c_int()
call(303, 264, -100, b"/", handle, ctypes.byref(mount), 0)
ok = call(304, 265, os.open("/", os.O_RDONLY), handle, os.O_RDONLY) >= 0
""",
    "watch a file of the machine (fanotify)": "ok = call(300, 262, 0, 0) >= 0",
    "write to what was opened for reading, by /proc/self/fd": """
fd = os.open(W["code"], os.O_RDONLY); ok = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY) >= 0
""",
    "climb out of a chroot": """
os.mkdir(f"/tmp/c{os.getpid()}"); top = os.open("/", os.O_RDONLY); os.chroot(f"/tmp/c{os.getpid()}"); os.fchdir(top)
ok = os.path.exists("." + W["secret"])
""",
}

_SHARED = {
    "attach to another's System V shared memory": """
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(W["shm_id"], None, 0); ok = address not in (None, 2**64 - 1) and ctypes.string_at(address, 6) == b"marker"
""",
    "open another's message queue": 'ok = checked(libc.mq_open(W["queue"].encode(), os.O_RDONLY)) >= 0',
    "punch a hole into sealed memory": """
fd = os.memfd_create("x", os.MFD_ALLOW_SEALING); os.write(fd, b"x" * 8192)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
checked(libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096))); ok = os.pread(fd, 1, 0) == b"\\0"
""",
    "punch a hole into sealed memory by madvise": """
fd = os.memfd_create("x", os.MFD_ALLOW_SEALING); os.write(fd, b"x" * 8192)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
area = mmap.mmap(fd, 8192); area.madvise(9, 0, 4096); ok = os.pread(fd, 1, 0) == b"\\0"
""",
    "make itself readable again (PR_SET_DUMPABLE)": """
ok = checked(libc.prctl(4, 1, 0, 0, 0)) == 0 and libc.prctl(3, 0, 0, 0, 0) == 1
""",
}

_NETWORK = {
    "connect to a server on the machine's loopback": """
with socket.create_connection(("127.0.0.1", W["tcp"]), 3) as s: ok = s.recv(6) == b"marker"
""",
    "send to a server on the machine's loopback (UDP)": """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(0.5); s.sendto(b"?", ("127.0.0.1", W["udp"])); ok = s.recv(6) == b"marker"
""",
    "connect to an abstract socket": """
with socket.socket(socket.AF_UNIX) as s: s.connect("\\0" + W["abstract"]); ok = s.recv(6) == b"marker"
""",
    "connect to a socket in the file system": """
with socket.socket(socket.AF_UNIX) as s: s.connect(W["path_socket"]); ok = s.recv(6) == b"marker"
""",
    "connect to the node's own socket": """
with socket.socket(socket.AF_UNIX) as s: s.connect(W["api"]); ok = True
""",
    "see the machine's network devices": 'ok = [n for _, n in socket.if_nameindex() if n != "lo"] != []',
    "open a raw socket": "ok = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno() >= 0",
    "open a packet socket": "ok = socket.socket(17, socket.SOCK_RAW, 0x300).fileno() >= 0",
    "speak to the kernel's network configuration (netlink)": "ok = socket.socket(16, socket.SOCK_RAW, 0).fileno() >= 0",
    "speak to the firewall (netlink netfilter)": "ok = socket.socket(16, socket.SOCK_RAW, 12).fileno() >= 0",
    "listen where the machine's clients connect": """
with socket.socket() as s:
    s.bind(("127.0.0.1", 0)); s.listen(); open(W["port_file"], "w").write(str(s.getsockname()[1])); ok = "port"; s.settimeout(1)
    s.accept()
""",
}

_KERNEL = {
    "load a program into the kernel (bpf)": """
attributes = struct.pack("=IIIII", 2, 4, 8, 1, 0) + bytes(100)
ok = call(321, 280, 0, attributes, len(attributes)) >= 0
""",
    "handle page faults of others (userfaultfd)": "ok = call(323, 282, 0) >= 0",
    "reach the kernel's keyrings (keyctl)": "ok = call(250, 219, 0, -3, 1) != 0",
    "add a key": 'ok = call(248, 217, b"user", b"escape", b"x", 1, -2) != 0',
    "set up io_uring": "ok = call(425, 425, 1, bytes(120)) >= 0",
    "count events of the machine (perf)": """
attributes = struct.pack("=IIQ", 1, 112, 0) + bytes(96); ok = call(298, 241, attributes, -1, 0, -1, 0) >= 0
""",
    "load a kernel module": """
fd = os.memfd_create("m")
os.write(fd, b"no module")
try: call(313, 273, fd, b"", 0)
except OSError as error:
    if error.errno not in (errno.ENOEXEC, errno.EINVAL): raise
ok = True  # it was permitted, and looked at the module
""",
    "load another kernel (kexec)": "ok = call(246, 104, 0, 0, None, 0) == 0",
    "read the kernel's log (syslog)": "ok = checked(libc.klogctl(10, None, 0)) > 0",
    "read /dev/kmsg": 'ok = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK) >= 0',
    "write to the core pattern": 'ok = os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) >= 0',
    "press the magic key": 'ok = os.open("/proc/sysrq-trigger", os.O_WRONLY) >= 0',
    "read the kernel's memory (kcore)": 'ok = len(os.read(os.open("/proc/kcore", os.O_RDONLY), 4)) == 4',
    "set a setting of the kernel": 'ok = os.open("/proc/sys/vm/overcommit_memory", os.O_WRONLY) >= 0',
    "set the clock": "ok = checked(libc.settimeofday(None, bytes(8))) == 0",
    "adjust the clock": "ok = checked(libc.adjtime(bytes(16), None)) == 0",
    "name the machine": "ok = checked(libc.sethostname(socket.gethostname().encode(), len(socket.gethostname()))) == 0",
    "switch accounting off": "ok = checked(libc.acct(None)) == 0",
    "read ports of the machine (iopl)": "ok = call(172, -1, 3) == 0",
    "open the machine's memory": 'ok = os.open("/dev/mem", os.O_RDONLY) >= 0',
    "open a disk": 'ok = os.open(W["disk"], os.O_RDONLY) >= 0',
    "make a device node of the disk": """
os.mknod(f"/tmp/disk{os.getpid()}", 0o600 | stat.S_IFBLK, os.makedev(*W["disk_number"]))
try: ok = os.open(f"/tmp/disk{os.getpid()}", os.O_RDONLY) >= 0
finally: os.unlink(f"/tmp/disk{os.getpid()}")
""",
    "use system calls of another table (int 0x80)": """
area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
area.write(b"\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3")
ok = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))() > 0
""",
}

_NAMESPACES = {
    "make a user namespace": "ok = checked(libc.unshare(0x10000000)) == 0",
    "make a user namespace (clone)": """
pid = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
ok = pid > 0
""",
    "make a user namespace (clone3)": """
pid = call(435, 435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88)
if pid == 0: os._exit(0)
ok = pid > 0
""",
    "make a mount namespace": "ok = checked(libc.unshare(0x00020000)) == 0",
    "make a time namespace": "ok = checked(libc.unshare(0x80)) == 0",
    "mount a file system": 'ok = checked(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)) == 0',
    "mount a cgroup hierarchy and open its limits": """
checked(libc.mount(b"cgroup", b"/tmp", b"cgroup", 0, b"memory"))
ok = os.open("/tmp/memory.limit_in_bytes", os.O_WRONLY) >= 0 or os.open("/tmp/release_agent", os.O_WRONLY) >= 0
""",
    "make the root folder writable": """
checked(libc.mount(None, b"/", None, 0x1020, None))
ok = os.open("/new", os.O_CREAT | os.O_WRONLY) >= 0 and os.unlink("/new") is None
""",
    "make /proc writable, and write to the core pattern": """
checked(libc.mount(None, b"/proc", None, 0x1020, None)); ok = os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) >= 0
""",
    "make the application's code writable": """
folder = W["package"].encode()
if libc.mount(None, folder, None, ctypes.c_ulong(0x1020), None) != 0:
    checked(libc.mount(folder, folder, None, ctypes.c_ulong(0x1000), None))
    checked(libc.mount(None, folder, None, ctypes.c_ulong(0x1020), None))
ok = os.open(W["code"], os.O_WRONLY) >= 0
""",
    "take its /proc away": 'ok = checked(libc.umount2(b"/proc", 2)) == 0',
    "change its root folder": """
ok = checked(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)) == 0 and os.mkdir("/tmp/old") is None
call(155, 41, b"/tmp", b"/tmp/old")
""",
    "chroot": 'os.chroot("/tmp"); ok = True',
    "use a mount by its new interface": 'ok = call(428, 428, -100, b"/", 1) >= 0',
}

_RESOURCES = {
    "write to its control group": 'ok = os.open(W["cgroup"] + "/cgroup.procs", os.O_WRONLY) >= 0',
    "raise its memory ceiling": 'ok = os.open(W["cgroup"] + "/memory.limit_in_bytes", os.O_WRONLY) >= 0',
    "register a release agent": 'ok = os.open(W["release_agent"], os.O_WRONLY) >= 0',
    "start more processes than the sandbox may have (fork bomb)": """
pids = []
try:
    while len(pids) < 400:
        pid = os.fork()
        if pid == 0: signal.pause()
        pids.append(pid)
    ok = "many"
except OSError: pass
finally:
    for pid in pids: os.kill(pid, 9)
    for pid in pids: os.waitpid(pid, 0)
""",
    "run in real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); ok = True",
    "run before everybody (nice)": "os.nice(-5); ok = True",
    "raise a hard limit": """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1)); ok = True
""",
    "lock all memory": "resource.setrlimit(resource.RLIMIT_MEMLOCK, (-1, -1)); ok = checked(libc.mlockall(1)) == 0",
    "escape the out-of-memory killer": 'open("/proc/self/oom_score_adj", "w").write("-500"); ok = True',
    "fill the machine's disk": """
room = os.statvfs("/tmp"); ok = room.f_blocks * room.f_frsize > 2**30
""",
    "turn off address randomisation": "ok = checked(libc.personality(0x0040000)) >= 0",
}


def attempts() -> list[Attempt]:
    """All of them; those against processes once for each kind of target, whose numbers are ``W["pids"]``."""
    return list(_attempts())


def _attempts() -> Iterator[Attempt]:
    for target in TARGETS:
        for name, source in _OF_PROCESSES.items():
            yield Attempt(name, target, f"pid = W['pids'][{target!r}]\n{source}")
    for group, table in (
        ("files", _FILES),
        ("shared memory", _SHARED),
        ("network", _NETWORK),
        ("kernel", _KERNEL),
        ("namespaces and mounts", _NAMESPACES),
        ("resources", _RESOURCES),
    ):
        for name, source in table.items():
            yield Attempt(name, group, source, NEEDS.get(name, ""), TEMPLATE_MAY.get(name, ""))


_OWN = "in its own mount namespace, of which its forks get copies"
TEMPLATE_MAY = {
    "make a mount namespace": "as its forks need it",
    "mount a file system": _OWN,
}
NEEDS = {
    "load another kernel (kexec)": "a kernel with kexec",
    "load a kernel module": "a kernel with modules",
    "read the kernel's memory (kcore)": "a kernel with /proc/kcore",
    "open the machine's memory": "a kernel with /dev/mem",
    "open a disk": "a disk",
    "make a device node of the disk": "a disk",
    "read ports of the machine (iopl)": "an x86 processor",
    "use system calls of another table (int 0x80)": "a kernel with the system calls of 32 bits",
    "press the magic key": "a kernel with the magic key",
    "switch accounting off": "a kernel with process accounting",
    "count events of the machine (perf)": "performance counters",
    "open a packet socket": "packet sockets",
    "speak to the firewall (netlink netfilter)": "netfilter",
    "set up io_uring": "a kernel with io_uring",
    "reach the kernel's keyrings (keyctl)": "a kernel with keyrings",
    "add a key": "a kernel with keyrings",
    "watch a file of the machine (fanotify)": "a kernel with fanotify",
    "make a time namespace": "a kernel with time namespaces",
    "mount a cgroup hierarchy and open its limits": "control groups, version 1",
    "write to its control group": "control groups, version 1",
    "raise its memory ceiling": "control groups, version 1",
    "register a release agent": "control groups, version 1",
    "raise a hard limit": "the right to raise limits (CAP_SYS_RESOURCE)",
    "lock all memory": "the right to raise limits (CAP_SYS_RESOURCE)",
    "run in real time": "real-time scheduling",
}

RUNNER = r"""
import json, os, signal, sys, traceback

def run(sources, world, private):
    '''Each in a process of its own, five seconds at most. What came of it: true, a word, or why not.'''
    told = {}
    for key, source in sources.items():
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            for number in (signal.SIGALRM, signal.SIGSYS, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.alarm(5)
            try:
                space = {"W": world}
                exec(PRELUDE, space)
                if private:  # what succeeds here shall not be seen by others
                    space["checked"](space["libc"].unshare(0x00020000))
                    space["checked"](space["libc"].mount(b"none", b"/", None, 0x44000, None))
                exec(source, space)
                said = space["ok"]
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write_end, json.dumps(said).encode()[:2000])
            os._exit(0)
        os.close(write_end)
        chunks = []
        while chunk := os.read(read_end, 4096):
            chunks.append(chunk)
        os.close(read_end)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told[key] = json.loads(b"".join(chunks)) if chunks else f"ended by {status}"
    return told
"""


def hostile_module() -> str:
    """A component's module that runs attempts."""
    return f"PRELUDE = {PRELUDE!r}\n{RUNNER}"


def matrix(plain: dict[str, object], walled: dict[str, object], template: dict[str, object]) -> list[str]:
    """The table of docs/security.md, from what came of every attempt."""
    lines = ["| against | attempt | without a sandbox | from a shard | from a template |", "|---|---|---|---|---|"]
    for attempt in attempts():
        told = [_told(each.get(attempt.key)) for each in (plain, walled, template)]
        if told[0] != "succeeds":
            told[0] = f"not applicable here: needs {attempt.needs}"
        if told[2] == "succeeds" and attempt.template_may:
            told[2] = attempt.template_may
        lines.append(f"| {attempt.group} | {attempt.name} | {' | '.join(told)} |")
    return lines


def _told(said: object) -> str:
    if said in (True, "many", "port", "outside"):
        return "succeeds"
    for word, meaning in _REASONS:
        if word in str(said):
            return meaning
    return "blocked: " + ("nothing is seen of it" if said in (False, None) else str(said).partition(":")[0])


_REASONS = (
    ("[Errno 1]", "blocked: not permitted"),
    ("[Errno 13]", "blocked: no access"),
    ("[Errno 2]", "blocked: not there"),
    ("[Errno 3]", "blocked: no such process"),
    ("[Errno 30]", "blocked: read-only"),
    ("[Errno 38]", "blocked: no such call"),
    ("[Errno 97]", "blocked: no such family"),
    ("[Errno 95]", "blocked: not supported"),
    ("[Errno 111]", "blocked: nobody listens"),
    ("[Errno 22]", "blocked: invalid"),
    ("[Errno 19]", "blocked: no such device"),
    ("timed out", "blocked: no answer"),
    ("not allowed to raise", "blocked: not permitted"),
    ("ended by -31", "blocked: ended by SIGSYS"),
)
