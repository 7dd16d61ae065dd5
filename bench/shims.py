# SPDX-License-Identifier: MIT
"""Shims of a bench's own: started, called, stopped; their QEMUs end with them."""
import json
import os
import select
import subprocess
import time

from ttrpc import Caller, RpcError

READY_LIMIT = 30  # seconds


class Shim:
    def __init__(self, build, folder, name, config=None, more=()):
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder, 0o700)
        arguments = [os.path.join(build, "src/shim/containerd-shim-ferry-v2"), "serve",
                     "--state-dir", self.folder, "--id", name, *more]
        if config is not None:
            path = os.path.join(folder, f"{name}.json")
            with open(path, "w", encoding="utf-8") as text:
                json.dump(config, text)
            arguments += ["--config", path]
        near, far = os.pipe()
        os.set_inheritable(far, True)
        self.log = os.path.join(folder, f"{name}.stderr")
        with open(self.log, "wb") as log:
            begin = time.monotonic()
            self.process = subprocess.Popen([*arguments, "--ready-fd", str(far)], pass_fds=[far],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            os.close(far)
            heard = b""
            if select.select([near], [], [], READY_LIMIT)[0]:
                heard = os.read(near, 16)
            self.ready_ms = (time.monotonic() - begin) * 1e3
        os.close(near)
        if heard != b"ready\n":
            why = self.tail()
            self.process.kill()
            self.process.wait()
            raise RpcError(f"shim {name} did not get ready: {why}")
        self.caller = Caller(os.path.join(self.folder, "shim.sock"))

    def tail(self):
        text = ""
        for path in (self.log, os.path.join(self.folder, "shim.log")):
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as log:
                    text += log.read()[-600:]
        return text.strip()

    def status(self):
        """ferry.shim.v1.StatusResponse by field number."""
        return self.caller.call("ferry.shim.v1.Shim", "Status")

    def wait_vm(self, state):
        deadline = time.monotonic() + READY_LIMIT
        while self.status().get(4, 0) != state:
            if time.monotonic() > deadline:
                raise RpcError(f"the VM did not reach state {state}: {self.tail()}")
            time.sleep(0.01)

    def pss_kib(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as rollup:
            for line in rollup:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
        raise RpcError("no Pss in smaps_rollup")

    def close(self):
        """Ends the VM, whatever its session says, and the shim."""
        try:
            self.caller.call("ferry.shim.v1.Shim", "Stop", b"\x08\x01")  # force
        except (RpcError, OSError):
            pass
        self.caller.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
