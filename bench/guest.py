# SPDX-License-Identifier: MIT
"""The Linux guest that the benches move, and ferry's own way of running and moving it."""
import json
import os
import signal
import subprocess
import time

BOOT_LIMIT = 120  # seconds; under TCG it takes four to six
READY, ALIVE = "READY", "tick "  # what the guest prints when all of it runs, and then each second


class FerryError(Exception):
    pass


class Ferry:
    """The `ferry` command of a build."""

    def __init__(self, build):
        self.program = os.path.join(build, "src/cli/ferry")
        self.environment = dict(os.environ)
        self.environment.pop("FERRY_ROOT", None)

    def run(self, *arguments):
        done = subprocess.run([self.program, *arguments], env=self.environment, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        if done.returncode:
            raise FerryError(f"ferry {' '.join(arguments)}: exit status {done.returncode}: "
                             f"{done.stderr.decode('utf-8', 'replace').strip()}")
        return done.stdout.decode()

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))


class Guest:
    """A kernel, an initrd and a load: what all chains boot."""

    def __init__(self, kernel, initrd, cmdline, load, memory_mb):
        self.kernel, self.initrd, self.cmdline = kernel, initrd, cmdline
        self.load, self.memory_mb = load, memory_mb


def wait_output(chain, text):
    """Until the guest has printed `text` in the QEMU that it is in."""
    deadline = time.monotonic() + BOOT_LIMIT
    while text not in chain.output():
        if time.monotonic() > deadline:
            raise FerryError(f"{type(chain).__name__}, hop {chain.hops}: the guest does not print "
                             f"'{text}': {chain.output()[-400:]}")
        time.sleep(0.05)


class FerryChain:
    """A chain like those of peers.py: a sandbox that goes back and forth between two hosts."""

    NAME = "bench"

    def __init__(self, ferry, folder, guest):
        self.ferry, self.hops = ferry, 0
        self.roots = [os.path.join(folder, f"{guest.load}-{side}") for side in "ab"]
        config = os.path.join(folder, f"{guest.load}.json")
        with open(config, "w", encoding="utf-8") as text:
            json.dump({"memory_mb": guest.memory_mb, "vcpus": 1, "accelerator": "tcg",
                       "kernel": guest.kernel, "initrd": guest.initrd,
                       "cmdline": guest.cmdline}, text)
        for root in self.roots:
            os.mkdir(root, 0o700)
        self.ferry.run("--root", self.roots[0], "run", self.NAME, "--config", config)
        self.qemu_pid = self.pid()

    def here(self):
        return self.roots[self.hops % 2]

    def pid(self):
        return self.ferry.json("--root", self.here(), "status", self.NAME)["qemu_pid"]

    def output(self):
        with open(os.path.join(self.here(), self.NAME, "console.log"), "rb") as console:
            return console.read().decode("utf-8", "replace")

    def hop(self):
        there = self.roots[(self.hops + 1) % 2]
        report = self.ferry.json("--root", self.here(), "migrate", self.NAME, "--to", there)
        self.hops += 1
        self.qemu_pid = self.pid()
        return {name: report[name] for name in ("blackout_ms", "total_ms", "passes", "bytes",
                                                "source", "destination")}

    def freeze(self):
        os.kill(self.qemu_pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.qemu_pid, signal.SIGCONT)

    def close(self):
        self.thaw()
        for root in self.roots:
            try:
                self.ferry.run("--root", root, "stop", self.NAME, "--force")
            except FerryError:
                pass  # the guest is at the other one
