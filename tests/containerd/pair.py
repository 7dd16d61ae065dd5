# SPDX-License-Identifier: MIT
"""Two containerds in two network namespaces, and who types and reads at them."""
import json
import os
import pty
import re
import signal
import subprocess
import threading

import host

FOREVER = "while :; do sleep 0.1; done"
COUNT = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"


def lines_of(text):
    """Of what COUNT has printed."""
    return [int(number) for number in re.findall(r"line (\d+)\n", text)]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Network:
    """Two namespaces and a cable."""

    def __init__(self):
        self.names = [f"fmv{os.getpid()}{side}" for side in "ab"]

    def __enter__(self):
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", self.names[0], "type", "veth", "peer", "name", "eth0",
           "netns", self.names[1])
        for number, name in enumerate(self.names, 1):
            ip("-n", name, "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        return self.names

    def __exit__(self, *_):
        for name in self.names:
            ip("netns", "delete", name)


def ferry(place, *words, check=True):
    done = subprocess.run([place.ferry, *words], env=place.environment, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=host.LIMIT)
    assert not check or done.returncode == 0, done
    return done


def introduce(place, name, address, *more):
    ferry(place, "--root", place.root, "host", "set", "--name", name, "--netns", place.netns,
          "--address", address, "--containerd", place.socket, "--cache-dir", place.roots, *more)


def move(here, there, name, *options):
    done = ferry(here, "--root", here.root, "migrate", name, "--to", there.root, "--json", *options)
    return json.loads(done.stdout)


def is_clean(place):
    return not place.sandboxes() and not place.must("task", "ls", "-q").out and \
        not place.must("container", "ls", "-q").out


def wait_clean(place):
    host.wait_for("nothing left", lambda: is_clean(place))
    left = [name for name in os.listdir(place.roots)
            if not re.fullmatch("[0-9a-f]{64}[.]erofs|[.]lock", name)]
    assert not left, left


def kill_shim(place):
    sandbox, = place.sandboxes()
    with open(os.path.join(place.root, sandbox, "shim.lock"), encoding="utf-8") as file:
        os.kill(int(file.read()), signal.SIGKILL)


def move_slowly(here, there, name):
    """A ferry migrate that is in its copy."""
    mover = subprocess.Popen([here.ferry, "--root", here.root, "migrate", name, "--to", there.root,
                              "--bandwidth", "1M"], env=here.environment, text=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    host.wait_for("its task there", lambda: host.state(there, name) == "RUNNING")
    return mover


class Pair:
    """(here, there), which know each other as hosts a and b."""

    def __init__(self, ferry_program, shim, binaries=None, prepare=lambda place: None):
        self.programs, self.prepare = (ferry_program, shim, binaries), prepare
        self.network, self.hosts = Network(), []

    def __enter__(self):
        self.network.__enter__()
        try:
            for number, name in enumerate(self.network.names, 1):
                place = host.Host(*self.programs, netns=name,
                                  guest=self.hosts[0].guest if self.hosts else None)
                self.hosts.append(place)
                self.prepare(place)
                place.__enter__()
                introduce(place, "ab"[number - 1], f"10.9.0.{number}")
        except BaseException:
            self.__exit__()
            raise
        return self.hosts

    def __exit__(self, *_):
        for place in reversed(self.hosts):
            place.__exit__()
        self.network.__exit__()


class Watched:
    """A ctr that runs on, and what it prints."""

    def __init__(self, place, *arguments, terminal=False):
        self.data = bytearray()
        argv = place.argv(*arguments)
        if terminal:
            self.fd, end = pty.openpty()
            self.process = subprocess.Popen(argv, env=place.environment, stdin=end, stdout=end,
                                            stderr=end, start_new_session=True)
            os.close(end)
        else:
            self.process = subprocess.Popen(argv, env=place.environment, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE)
            self.fd = self.process.stdout.fileno()

        self.ended = False
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    @property
    def text(self):
        return self.data.decode(errors="replace")

    def read(self):
        """All the time: who does not read holds up what he watches."""
        data = b"begin"
        while data:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # a terminal without its other end
                data = b""
            with self.changed:
                self.data += data
                self.ended = not data
                self.changed.notify_all()

    def wait_for(self, what):
        what = what.encode()
        with self.changed:
            found = self.changed.wait_for(lambda: what in self.data or self.ended, host.LIMIT)
        assert found and what in self.data, f"no {what!r} in {self.data[-2000:]!r}"

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """Its exit status, when all is read."""
        self.reader.join(host.LIMIT)
        assert self.ended, "it does not end"
        return self.process.wait(host.LIMIT)

    def kill(self):
        self.process.kill()
        self.process.wait()
