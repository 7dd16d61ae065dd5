# SPDX-License-Identifier: MIT
"""What the tests of the command line share: a place of their own, `ferry`, TAP."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

LIMIT = 60  # seconds; far away

# A VM without kernel and disk: its firmware finds nothing to boot and idles.
IDLE_VM = {"memory_mb": 32, "vcpus": 1, "accelerator": "tcg"}


RUNNING = "running"
SLOW = ("--bandwidth", "64K")  # the least; the firmware has several hundred KiB
QUICK = ("--bandwidth", "256K")  # some seconds


class Result:
    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return f"exit {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Place:
    """A folder with two hosts' roots; whatever sandboxes are left in it end with it."""

    def __init__(self, program):
        self.program = os.path.abspath(program)
        # short, since the paths of sockets are
        self.folder = tempfile.mkdtemp(prefix="ferry-cli-", dir="/tmp")
        self.a = os.path.join(self.folder, "a")
        self.b = os.path.join(self.folder, "b")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for root in self.a, self.b, os.path.join(self.folder, "c"):
            for name in os.listdir(root) if os.path.isdir(root) else []:
                if os.path.isdir(os.path.join(root, name)):
                    self.ferry("stop", "--force", name, root=root)
        shutil.rmtree(self.folder)

    def environment(self, root=None):
        return {**os.environ, "FERRY_ROOT": root or self.a}

    def ferry(self, *arguments, root=None):
        return Result(subprocess.run(
            [self.program, *arguments], env=self.environment(root), cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=LIMIT * 3, check=False))

    def start(self, *arguments, root=None):
        return subprocess.Popen(
            [self.program, *arguments], env=self.environment(root), cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def must(self, *arguments, root=None):
        result = self.ferry(*arguments, root=root)
        assert result.code == 0, f"ferry {' '.join(arguments)}: {result}"
        return result

    def file(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as text:
            text.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def fifo(self, name):
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            os.mkfifo(path)
        return path

    def snapshot(self):
        """Every file with its content, but what a running VM writes by itself."""
        seen = {}
        for folder, folders, names in os.walk(self.folder):
            for name in folders + names:
                path = os.path.join(folder, name)
                if name.endswith(".log") or not os.path.isfile(path):
                    seen[path] = None
                else:
                    with open(path, "rb") as content:
                        seen[path] = hashlib.sha256(content.read()).hexdigest()
        return seen

    def status(self, name, root=None):
        return self.must("status", "--json", name, root=root).json()


def run(place, name="web"):
    place.must("run", name, "--config", place.file("vm.json", IDLE_VM))


def guest_image(place):
    folder = os.path.join(place.folder, "image")
    result = place.ferry("image", "build", "--output", folder)
    if result.code != 0 and "package" in result.err and os.environ.get("CI") != "true":
        print(f"1..0 # SKIP {result.err.splitlines()[0]}")
        sys.exit(0)
    assert result.code == 0, result
    return folder


def start_guest(place, folder):
    config = json.load(open(os.path.join(folder, "vm.json"), encoding="utf-8"))
    config.update(accelerator="tcg")
    place.must("run", "web", "--config", place.file("agent.json", config))


def only_at(place, root, other, name="web"):
    """The sandbox runs in `root`, and the other host has nothing of it."""
    status = place.status(name, root=root)
    assert status["vm_state"] == RUNNING and status["owner"] == "this_side", status
    assert "session" not in status, status
    assert sorted(os.listdir(os.path.join(root, name))).count("migration.json") == 0, root
    assert not os.path.exists(os.path.join(other, name)), other
    return status


def detail(place, root=None):
    return place.status("web", root=root).get("session", {}).get("detail")


def is_copying(place):
    return detail(place) == "S_COPYING"


def kill_in_the_copy(place, *options):
    """The caller is gone, the shims go on."""
    mover = place.start("migrate", "web", "--to", place.b, *options)
    wait_for("the copy", lambda: is_copying(place))
    mover.kill()
    mover.communicate()


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for("their end", lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids))


def wait_for(what, condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT} s"
        time.sleep(0.02)


def tap(cases):
    """Runs (name, function) pairs, one TAP line each."""
    print(f"1..{len(cases)}")
    failed = False
    for number, (name, function) in enumerate(cases, 1):
        start = time.monotonic()
        try:
            function()
        except Exception:  # pylint: disable=broad-except
            failed = True
            traceback.print_exc()
            print(f"not ok {number} - {name}", flush=True)
        else:
            print(f"ok {number} - {name}", flush=True)
        print(f"# {time.monotonic() - start:.1f} s", flush=True)
    sys.exit(1 if failed else 0)


def need_qemu():
    if not shutil.which("qemu-system-x86_64"):
        if os.environ.get("CI") == "true":
            sys.exit("no qemu-system-x86_64: ./dev setup installs it")
        print("1..0 # SKIP no qemu-system-x86_64")
        sys.exit(0)
