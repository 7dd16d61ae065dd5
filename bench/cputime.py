# SPDX-License-Identifier: MIT
"""CPU time of a chain's processes, whoever has ended meanwhile: by control groups of version 2,
which count it whether or not a controller is on.

One group for what is started with command(), with all that comes of it, and one within for the
QEMUs, which are put there once they are known. The rest of the first is the shims'.
"""
import bisect
import os
import threading
import time

PERIOD = 0.01  # seconds between two looks
REMOVE_LIMIT = 10  # seconds for the last process to be gone


class CpuTimeError(Exception):
    pass


def find_hierarchy():
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, where, kind = line.split()[:3]
            if kind == "cgroup2":
                return where
    raise CpuTimeError("no cgroup2 is mounted: CPU time cannot be counted")


def own_group(hierarchy):
    with open("/proc/self/cgroup", encoding="utf-8") as groups:
        for line in groups:
            if line.startswith("0::"):
                return hierarchy + line[3:].strip().rstrip("/")
    raise CpuTimeError("this process is in no cgroup of version 2")


class Group:
    def __init__(self, path):
        self.path = path
        os.mkdir(path)

    def take(self, pid):
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="ascii") as members:
            members.write(str(pid))

    def seconds(self):
        with open(os.path.join(self.path, "cpu.stat"), encoding="ascii") as text:
            return int(text.readline().split()[1]) / 1e6  # usage_usec

    def remove(self):
        """What was in it has been ended; the kernel may need a moment to have it gone."""
        deadline = time.monotonic() + REMOVE_LIMIT
        while True:
            try:
                os.rmdir(self.path)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class CpuTime:
    def __init__(self, name):
        path = os.path.join(own_group(find_hierarchy()), f"ferry-bench-{os.getpid()}-{name}")
        self.all = Group(path)
        try:
            self.qemus = Group(os.path.join(path, "qemus"))
        except BaseException:
            self.all.remove()
            raise
        self.samples, self.over, self.thread = [], None, None

    def command(self, words):
        """The same command, started in the group."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"',
                os.path.join(self.all.path, "cgroup.procs"), *words]

    def look(self):
        self.samples.append((time.time(), self.all.seconds(), self.qemus.seconds()))

    def watch(self):
        while not self.over.wait(PERIOD):
            self.look()

    def __enter__(self):
        self.samples, self.over = [], threading.Event()
        self.look()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.look()

    def between(self, begin, end):
        """(all seconds, the QEMUs' seconds) between two times of the wall clock."""
        first, last = spent_at(self.samples, begin), spent_at(self.samples, end)
        return tuple(after - before for before, after in zip(first, last))

    def close(self):
        self.qemus.remove()
        self.all.remove()


def spent_at(samples, when):
    """The counts at a time between two samples, as if they had grown evenly in between."""
    times = [sample[0] for sample in samples]
    after = min(max(bisect.bisect_left(times, when), 1), len(samples) - 1)
    (t0, *low), (t1, *high) = samples[after - 1], samples[after]
    share = min(max((when - t0) / (t1 - t0), 0), 1) if t1 > t0 else 1
    return [a + (b - a) * share for a, b in zip(low, high)]
