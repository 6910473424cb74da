"""What a hostile program may try, by class: to get out, to never end, to pass without the answer.

`f(7)` is expected to return 8, which no program here computes.
"""
# ruff: noqa: E501

from __future__ import annotations

# Prints OUT where it got what it must not get.
OUT = {
    "socket": "import socket; socket.socket(); print('OUT')",
    "raw socket": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('OUT')",
    "unix socket": "import socket; socket.socketpair(); print('OUT')",
    "netlink": "import socket; socket.socket(16, 3, 0); print('OUT')",
    "host files": "open('/etc/passwd').read(); print('OUT')",
    "home": "import os; os.listdir('/root'); os.listdir('/home'); print('OUT')",
    "write /usr": "open('/usr/bin/x', 'w'); print('OUT')",
    "write /": "open('/x', 'w'); print('OUT')",
    "write /dev": "open('/dev/x', 'w'); print('OUT')",
    "write kernel settings": "open('/proc/sys/kernel/core_pattern', 'w'); print('OUT')",
    "write own oom": "open('/proc/self/oom_score_adj', 'w').write('-1000'); print('OUT')",
    "sysrq": "open('/proc/sysrq-trigger', 'w').write('c'); print('OUT')",
    "host memory": "open('/dev/mem', 'rb').read(1); print('OUT')",
    "kernel memory": "open('/proc/kcore', 'rb').read(1); print('OUT')",
    "block device": "import os; os.mknod('/box/sda', 0o60666, os.makedev(8, 0)); print('OUT')",
    "chroot": "import os; os.chroot('/tmp'); print('OUT')",
    "setuid": "import os; os.setuid(0); print('OUT')",
    "setgroups": "import os; os.setgroups([0]); print('OUT')",
    "setuid program": "import os; os.system('su -c id root 2>&1 | grep -q uid=0 && echo OUT')",
    "chmod setuid": "import os; open('/box/s', 'w').close(); os.chown('/box/s', 0, 0); print('OUT')",
    "kill the host": "import os\nfor n in range(2, 30000):\n    try: os.kill(n, 0); print('OUT')\n    except OSError: pass",
    "kill the parent": "import os, signal; assert os.getppid(); os.kill(os.getppid(), signal.SIGKILL); print('OUT')",
    "other processes": "import os\nif len([n for n in os.listdir('/proc') if n.isdigit()]) > 1: print('OUT')",
    "parent's files": "import os; os.listdir(f'/proc/{os.getppid()}/fd'); print('OUT')",
    "raise limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**40, 2**40)); print('OUT')",
    "renice": "import os; os.nice(-5); print('OUT')",
    "symlink": "import os; os.symlink('/../../../etc/shadow', '/box/l'); open('/box/l').read(); print('OUT')",
    "link through proc": "open('/proc/1/root/etc/passwd').read(); print('OUT')",
    "old root": "import os; os.listdir('/proc/self/cwd/../../oldroot'); print('OUT')",
    "system clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0); print('OUT')",
    "host name": "import socket; socket.sethostname('x'); print('OUT')",
    "terminal": "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('OUT')",
    "controlling terminal": "open('/dev/tty', 'w').write('x'); print('OUT')",
    "write what it reads": "import os\nfor n in range(9):\n    try: os.write(n, b'x'); print('OUT' * (n not in (1, 2, 3)))\n    except OSError: pass",
    "grow what it reads": "import os; os.ftruncate(0, 10**6); print('OUT')",
    "job of the host": "import os\nif os.path.exists('/proc/self/fd/6'): print('OUT')",
    "memfd": "import os; os.memfd_create('x'); print('OUT')",
    "environment": "import os\nif set(os.environ) & {'USER', 'SECRET_CANARY', 'VIRTUAL_ENV', 'LOGNAME'}: print('OUT')",
    "environment of 1": "print('OUT' if b'SECRET_CANARY' in open('/proc/1/environ', 'rb').read() else '')",
    "command line": "print('OUT' if b'candidate-marker' in open('/proc/self/cmdline', 'rb').read() else '')",
    "channel opened again": "import os; os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK); print('OUT')",
    "channel of 1 opened again": "import os; os.open('/proc/1/fd/3', os.O_RDWR); print('OUT')",
    "network of the channel": (  # SIOCGIFCONF: the socket was made in the host's network
        "import ctypes, struct\nroom = ctypes.create_string_buffer(4096)\n"
        "asked = ctypes.create_string_buffer(struct.pack('iP', 4096, ctypes.addressof(room)))\n"
        "if ctypes.CDLL(None).ioctl(3, 0x8912, asked) == 0: print('OUT', room.raw[:80])"
    ),
    "index of an interface": "import fcntl, struct; fcntl.ioctl(3, 0x8933, struct.pack('16si20x', b'lo', 0)); print('OUT')",
    "name space of the channel": "import fcntl; fcntl.ioctl(3, 0x894C); print('OUT')",
    "options of the channel": (
        "import ctypes\nlib = ctypes.CDLL(None)\nroom, size = ctypes.create_string_buffer(64), ctypes.c_int(64)\n"
        "if not lib.getsockopt(3, 1, 17, room, ctypes.byref(size)) or not lib.shutdown(3, 2): print('OUT')"
    ),
    "flock": "import fcntl; fcntl.flock(open('/usr/bin/env', 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('OUT')",
    "shared flock": "import fcntl; fcntl.flock(open('/usr/bin/env', 'rb'), fcntl.LOCK_SH); print('OUT')",
    "record lock": "import fcntl; fcntl.lockf(open('/usr/bin/env', 'rb'), fcntl.LOCK_SH | fcntl.LOCK_NB); print('OUT')",
    "lock of a description": (
        "import fcntl, struct\n"
        "fcntl.fcntl(open('/usr/bin/env', 'rb'), 37, struct.pack('hhqqi4x', 0, 0, 0, 0, 0)); print('OUT')"
    ),
    "whose lock": (
        "import fcntl, struct\n"
        "fcntl.fcntl(open('/usr/bin/env', 'rb'), 5, struct.pack('hhqqi4x', 1, 0, 0, 0, 0)); print('OUT')"
    ),
    "lease": "import fcntl; fcntl.fcntl(open('/usr/bin/env', 'rb'), 1024, 0); print('OUT')",
    "watch of a folder": "import fcntl, os; fcntl.fcntl(os.open('/usr/bin', 0), 1026, 1); print('OUT')",
    "inotify": "import ctypes\nlib = ctypes.CDLL(None)\nif lib.inotify_init() >= 0 or lib.inotify_init1(0) >= 0: print('OUT')",
    "terminals": "import os; os.openpty(); print('OUT')",
    "queue": "from multiprocessing import Semaphore; Semaphore(); import socket; socket.socket(); print('OUT')",
}  # fmt: skip
CALLS = {
    "unshare": "unshare(0x10000000)", "setns": "setns(0, 0)", "ptrace": "ptrace(16, 1, 0, 0)",
    "mount": "mount(b'x', b'/tmp', b'tmpfs', 0, None)", "umount": "umount2(b'/tmp', 2)",
    "bpf": "syscall(321, 0, 0, 0)", "io_uring": "syscall(425, 1, 0)", "keyctl": "syscall(250, 0, 0)",
    "add_key": "syscall(248, b'user', b'a', b'b', 1, -2)", "shmget": "shmget(0, 4096, 0o1600)",
    "userfaultfd": "syscall(323, 0)", "perf": "syscall(298, 0, 0, -1, -1, 0)", "kcmp": "syscall(312, 1, 1, 0, 0, 0)",
    "process_vm_readv": "syscall(310, 1, 0, 0, 0, 0, 0)", "open_by_handle": "syscall(304, 0, 0, 0)",
    "clone into a namespace": "syscall(56, 0x10000011, 0, 0, 0, 0)", "clone3": "syscall(435, 0, 0)",
    "x32 numbers": "syscall(0x40000000 + 39)", "too new": "syscall(460, 0)", "personality": "personality(0x0040000)",
    "swapon": "swapon(b'/box/x', 0)", "reboot": "reboot(0)", "module": "syscall(175, 0, 0, 0)",
    "msgget": "msgget(0, 0o1600)", "semget": "semget(0, 1, 0o1600)", "mq_open": "syscall(240, b'x', 66, 384, 0)",
}  # fmt: skip


# Ends only if it is ended.
BOMBS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(1000)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
    "memory": "x = []\nwhile True: x.append(bytearray(10**7))",
    "memory of many": (
        "import os, time\nfor _ in range(8):\n    if not os.fork():\n        x = bytearray(3 * 10**8); time.sleep(100)\n"
        "time.sleep(100)"
    ),
    "files": "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'wb').write(b'x' * 10**6); n += 1",
    "empty files": "import os\nn = 0\nwhile True:\n    os.close(os.open(f'/tmp/{n}', os.O_CREAT | os.O_WRONLY)); n += 1",
    "folders": "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')",
    "lines": "import os\nwhile True: os.write(3, b'\\n' * 65536)",
    "shared memory": "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(b'x' * 10**6)",
    "descriptors": "f = []\nwhile True: f.append(open('/dev/null'))",
    "output": "while True: print('x' * 10**6)",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
    "channel": "import os\nwhile True: os.write(3, b'x' * 10**6)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "huge number": "x = 10 ** 10 ** 9",
    "huge text": "import sys\nsys.set_int_max_str_digits(0)\nstr(7 ** 10**8)",
    "regular expression": "import re; re.match('(a+)+$', 'a' * 100 + 'b')",
    "ignores signals": "import signal\nfor n in range(1, 30):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "daemon": "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(1000)",
    "holds the pipe": "import os, time\nprint('done', flush=True)\nif not os.fork(): time.sleep(1000)",
    "threads outlive": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
    "exit handler": "import atexit, time\natexit.register(time.sleep, 1000)",
    "no exit": "import sys, time\nclass X:\n    def __del__(self): time.sleep(1000)\nx = X()",
    "many mappings": (
        "import ctypes, os, time\nlib = ctypes.CDLL(None)\nsize = ctypes.c_size_t(4096)\nfor _ in range(24):\n"
        "    if not os.fork():\n        for n in range(60000): lib.mmap(None, size, 1 + 2 * (n % 2), 0x22, -1, ctypes.c_long(0))\n"
        "        time.sleep(1000)\ntime.sleep(1000)"
    ),
    "drip": "import os\nwhile True: os.write(1, b'x')",
    "drip of answers": "import os\nwhile True: os.write(3, b'x')",
    "timers": "import ctypes\nlib = ctypes.CDLL(None)\nt = ctypes.c_void_p()\nwhile True: lib.timer_create(1, None, ctypes.byref(t))",
    "pipes": "import fcntl, os, time\nx = []\nfor _ in range(16):\n    if not os.fork():\n        while True:\n"
    "            x.append(os.pipe()); fcntl.fcntl(x[-1][1], 1031, 2**20); os.set_blocking(x[-1][1], False); os.write(x[-1][1], b'x' * 2**20)\ntime.sleep(1000)",
    "closes all": "import os\nos.closerange(0, 100)\nwhile True: pass",
    "stops itself": "import os, signal; os.kill(0, signal.SIGSTOP); os.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
    "deep source": "x = " + "(" * 5000 + ")" * 5000,
    "wide source": "x = [" + "1," * 300_000 + "]\nwhile True: pass",
    "long traceback": "def f(n): raise ValueError('x' * 10**7) if not n else f(n - 1)\nf(900)",
    "chained errors": "e = None\nfor n in range(10**5):\n    e2 = ValueError(n); e2.__context__ = e; e = e2\nraise e",
}  # fmt: skip


EQUALS = "class E(BASE):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
EQUALS += "    def __hash__(self): return 0\n    def __reduce__(self): return (int, ('8',))\n"
# Is expected to fail for `f(7) == 8`.
CHEATS = {
    "equal to everything": EQUALS.replace("BASE", "object") + "def f(x): return E()",
    "an int that is equal": EQUALS.replace("BASE", "int") + "def f(x): return E(8)",
    "a bool": "def f(x): return x == 7",
    "a float": "def f(x): return 8.0",
    "a string": "def f(x): return '8'",
    "exit 0": "import sys\ndef f(x): sys.exit(0)",
    "leave 0": "import os\ndef f(x): os._exit(0)",
    "exit while imported": "raise SystemExit(0)",
    "frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for v in list(frame.f_locals"
        ".values()) + list(frame.f_globals.values()):\n            if v == 8 or v == (8,): return 8\n"
        "        frame = frame.f_back\n    return None"
    ),
    "gc": "import gc\ndef f(x): return next((o for l in gc.get_objects() if type(l) is tuple for o in l if o == 8.125), 0)",
    "job": "import __main__\ndef f(x): return __main__.job['expected']",
    "patched encoder": "import __main__\n__main__.encode = lambda v: 'i9'\n__main__.same = lambda *a: True\ndef f(x): return 1",
    "patched builtins": (
        "import builtins\nbuiltins.type = lambda v: int\nbuiltins.len = lambda v: 0\nbuiltins.isinstance = lambda *a: True\n"
        "def f(x): return None"
    ),
    "words of its own": "import os\ndef f(x):\n    for n in range(30):\n        try: os.write(n, b'd 0\\n')\n        except OSError: pass\n    os._exit(0)",
    "all answers at once": "import os\ndef f(x): os.write(3, b'v 0 i1\\nv 1 i1\\nf\\n'); os._exit(0)",
    "says it is done": "import os\nos.write(3, b'r\\nf\\n{\"exit-code\": 0}\\n')\nos._exit(0)",
    "claims a process": "import os\nos.write(3, b'{\"child-pid\": 1}\\n' * 9)\ndef f(x): return 1",
    "prints the answer": "def f(x): print('v 0 i8', flush=True)",
    "stdout of the driver": "import sys, os\ndef f(x): os.write(1, b'v 0 i8\\n'); sys.__stdout__.write('v 0 i8\\n')",
    "not a number": "def f(x): return float('nan')",
    "deep": "def f(x):\n    for _ in range(10**5): x = [x]\n    return x",
    "cycle": "def f(x):\n    x = []; x.append(x)\n    return x",
    "large": "def f(x): return [0] * 10**7",
    "huge number": "def f(x): return 1 << 10**8",
    "colliding": "def f(x): return {n * (2**61 - 1) for n in range(10**4)}",
    "traced": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 1",
    "never returns": "import threading, os\nthreading.Thread(target=lambda: os.write(3, b'v 0 i1\\n')).start()\ndef f(x):\n    while True: pass",
    "own modules": "import sys\nsys.modules.clear()\ndef f(x): return 1",
    "drains the channel": (
        "import os, time\nfd = os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK)\nos.read(fd, 10**6)\n"
        "def f(x): time.sleep(1000)"
    ),
    "holds the channel": (
        "import os, threading, time\ndef g():\n    while True: os.read(fd, 10**6)\ntry:\n    fd = os.open('/proc/self/fd/3', os.O_RDONLY)\n"
        "except OSError: fd = 3\nfor _ in range(4): threading.Thread(target=g, daemon=True).start()\ndef f(x): time.sleep(1000)"
    ),
    "drains at once": "import os\ntry: os.read(os.open('/proc/self/fd/3', os.O_RDONLY), 10**6)\nfinally: os._exit(0)",
    "fills the channel": "import os\ndef f(x):\n    while True: os.write(3, b'v 0 ' + b'i' * 65536)",
    "another name's channel": "import os\nfor n in range(3, 9):\n    try: os.dup2(0, n)\n    except OSError: pass\ndef f(x): return 8",
    "nested frozensets": (
        "def f(x):\n    v = frozenset(range(20000))\n    for n in range(90): v = frozenset({v, n})\n    return v"
    ),
    "dicts keyed by tuples": (
        "def f(x):\n    v = tuple(range(20000))\n    for n in range(90): v = (v, n)\n    return {v: {v: 1}}"
    ),
    "closes the channel": "import os\ndef f(x): os.closerange(3, 99); return 8",
    "an error that is equal": "class E(Exception):\n    def __eq__(s, o): return True\n    def __str__(s): return '8'\ndef f(x): raise E",
    "a str that loops": "class E(Exception):\n    def __str__(s):\n        while True: pass\ndef f(x): raise E",
    "a str that exits": "class E(Exception):\n    def __str__(s): raise SystemExit(0)\ndef f(x): raise E",
    "coroutine": "async def f(x): return 8",
    "late binding": "f = 8",
    "none": "def f(x): pass",
}  # fmt: skip
