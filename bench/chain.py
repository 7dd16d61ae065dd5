# SPDX-License-Identifier: MIT
"""A guest that goes from QEMU to QEMU, and what each such move is measured by."""
import os
import signal
import time

from watch import Watch

MOVE_LIMIT = 60  # seconds; who has not moved the guest by then "did not converge"
BOOT_LIMIT = 120  # seconds; under TCG a boot takes four to six
READY, ALIVE = "READY", "tick "  # what the guest prints when all of it runs, and from then on


class BenchError(Exception):
    pass


class Guest:
    """A kernel, an initrd and a load: what all chains boot."""

    def __init__(self, image, parameters, memory_mb):
        self.kernel, self.initrd = image["kernel"], image["initrd"]
        self.cmdline = f"{image['cmdline']} {parameters}"
        self.memory_mb = memory_mb


class Chain:
    """One guest and the QEMU it is in now. Subclasses: start(), move(), output(), stop()."""

    ADAPT, MORE = "", ""  # for the script that starts QEMU (watch.py)
    move_limit, boot_limit = MOVE_LIMIT, BOOT_LIMIT

    def __init__(self, folder, name, guest, link):
        self.folder, self.name, self.guest, self.link = folder, name, guest, link
        self.hops = 0
        self.watch = Watch(folder, name, self.ADAPT, self.MORE.format(folder=folder, name=name))

    def begin(self):
        self.start()
        self.watch.begin()

    def side(self, hops_more=0):
        return "ab"[(self.hops + hops_more) % 2]

    def hop(self):
        """Moves the guest. {converged, total_ms}, and if it did {blackout_ms, passes, bytes, ...}.

        total_ms is the whole command's: from before a destination's QEMU was there.
        """
        told = {}

        def mover():
            told.update(self.move() or {})
            return bool(told)

        begin = time.monotonic()
        total = []
        blackout = self.watch.move(lambda: (mover(), total.append(time.monotonic() - begin))[0])
        if blackout is None:
            return {"converged": False, "total_ms": total[0] * 1e3}
        self.hops += 1
        return {"converged": True, "total_ms": total[0] * 1e3, "blackout_ms": blackout, **told}

    def wait_output(self, text):
        """Until the guest has printed `text` in the QEMU that it is in."""
        deadline = time.monotonic() + self.boot_limit
        while text not in self.output():
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}, hop {self.hops}: the guest does not print '{text}':"
                                 f" {self.output()[-400:]}")
            time.sleep(0.05)

    def freeze(self):
        """Takes no CPU time while another chain is measured."""
        os.kill(self.watch.here.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.watch.here.pid, signal.SIGCONT)

    def close(self):
        try:
            if self.watch.here:
                self.thaw()
        except ProcessLookupError:
            pass  # it died, and the bench with it
        self.stop()
        self.watch.close()


def read_console(path):
    try:
        with open(path, "rb") as console:
            return console.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
