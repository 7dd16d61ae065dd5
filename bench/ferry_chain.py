# SPDX-License-Identifier: MIT
"""ferry's own way of running and moving the guest that the bench moves."""
import json
import os
import subprocess

from chain import BenchError, Chain, read_console

RUNS_AT_SOURCE = 5  # exit status of `ferry migrate`
NAME = "bench"


class FerryError(BenchError):
    def __init__(self, text, status):
        super().__init__(text)
        self.status = status


class Ferry:
    """The `ferry` command of a build."""

    def __init__(self, build):
        self.build, self.program = build, os.path.join(build, "src/cli/ferry")
        self.started_by = list  # words of a command to those that start it
        self.environment = dict(os.environ)
        self.environment.pop("FERRY_ROOT", None)

    def with_qemu(self, folder):
        """One whose shims find QEMU in this folder first."""
        other = Ferry(self.build)
        other.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
        return other

    def run(self, *arguments):
        # A session of its own: Ctrl-C is the bench's, which ends what it started in its own order.
        done = subprocess.run(self.started_by([self.program, *arguments]), env=self.environment, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              start_new_session=True)
        if done.returncode:
            raise FerryError(f"ferry {' '.join(arguments)}: exit status {done.returncode}: "
                             f"{done.stderr.decode('utf-8', 'replace').strip()}", done.returncode)
        return done.stdout.decode()

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))


class FerryChain(Chain):
    """A sandbox that goes back and forth between two hosts."""

    def __init__(self, ferry, options, *rest):
        super().__init__(*rest)
        self.ferry, self.options = ferry.with_qemu(self.watch.path), options
        self.roots = {side: os.path.join(self.folder, f"{self.name}-{side}") for side in "ab"}

    def start(self):
        config = os.path.join(self.folder, f"{self.name}.json")
        with open(config, "w", encoding="utf-8") as text:
            json.dump({"memory_mb": self.guest.memory_mb, "vcpus": 1, "accelerator": "tcg",
                       "kernel": self.guest.kernel, "initrd": self.guest.initrd,
                       "cmdline": self.guest.cmdline}, text)
        for side, root in self.roots.items():
            netns = self.link.netns(side)
            self.ferry.run("--root", root, "host", "set", "--name", side,
                           "--address", self.link.address(side),
                           *(["--netns", netns] if netns else []))
        self.ferry.run("--root", self.roots["a"], "run", NAME, "--config", config)

    def output(self):
        return read_console(os.path.join(self.roots[self.side()], NAME, "console.log"))

    def move(self):
        try:
            report = self.ferry.json("--root", self.roots[self.side()], "migrate", NAME,
                                     "--to", self.roots[self.side(1)],
                                     "--timeout", str(self.move_limit), *self.options)
        except FerryError as error:
            if error.status == RUNS_AT_SOURCE:
                return None
            raise
        source = report["source"]
        return {"own_blackout_ms": report["blackout_ms"], "passes": report["passes"],
                "bytes": report["bytes"], "blackout_bytes": source["blackout_bytes"],
                "source": source, "destination": report["destination"],
                "parts": report["blackout_parts"]}

    def stop(self):
        for root in self.roots.values():
            try:
                self.ferry.run("--root", root, "stop", NAME, "--force")
            except FerryError:
                pass  # the guest is at the other one
