# SPDX-License-Identifier: MIT
"""The two guests of bench/transfer that go back and forth, one by ferry and one by QEMU's own means,
each by another method at each move."""
import os
import secrets
import time

from cputime import CpuTime
from ferry_chain import FerryChain
from peers import ScriptChain, copy_by_events, set_up

MOVE_LIMIT = 300  # seconds: a GiB takes 86 over 100 Mbit/s
BOOT_LIMIT = 600  # to fill it takes half a minute, on a busy machine much longer
WORKERS, CHANNELS = 2, 2
FORCED_PASS = 4
POSTCOPY = "--postcopy"

PLAIN = ["--encryption", "none"]
FERRY = {
    "plain": PLAIN,
    "checksums": [*PLAIN, "--checksums"],
    "compression": [*PLAIN, "--compress-workers", str(WORKERS)],
    "tls": ["--encryption", "psk"],
    "all": ["--encryption", "psk", "--checksums", "--compress-workers", str(WORKERS)],
    "forced": [*PLAIN, "--max-passes", str(FORCED_PASS), "--target-passes", str(FORCED_PASS)],
    "postcopy": [*PLAIN, POSTCOPY, "always"],
}
HOT_ONLY = ("forced", "postcopy")
QEMU = ("qemu", "qemu-tls", "qemu-multifd")
METHODS = (*FERRY, *QEMU)


class Counted:
    """What a move costs besides time. In front of a Chain."""

    move_limit, boot_limit = MOVE_LIMIT, BOOT_LIMIT

    def __init__(self, *rest):
        super().__init__(*rest)
        self.method = None
        self.cpu = CpuTime(self.name)
        self.watch.on_qemu = self.cpu.qemus.take

    def hop_by(self, method):
        self.method = method
        sent_before = self.link.wire_bytes()
        with self.cpu:
            sample = self.hop()
        sample["wire_bytes"] = self.link.wire_bytes() - sent_before
        if sample["converged"]:
            began, ended = self.watch.began, self.watch.ended
            total, qemus = self.cpu.between(began, ended)
            sample.update(transfer_ms=(ended - began) * 1e3, cpu_s=total,
                          shims_cpu_s=total - qemus,
                          page_bytes=sample.get("page_bytes", sample["bytes"]))
        return sample

    def close(self):
        super().close()
        self.cpu.close()


class CountedFerry(Counted, FerryChain):
    def __init__(self, ferry, *rest):
        super().__init__(ferry, [], *rest)
        self.ferry.started_by = self.cpu.command

    def move(self):
        self.options = FERRY[self.method]
        return super().move()


class CountedQemu(Counted, ScriptChain):
    """Nothing between the QEMUs, and no manager: the destination runs on when it has loaded."""

    INCOMING = ("-incoming", "defer")

    def __init__(self, *rest):
        super().__init__(*rest)
        self.keys = os.path.join(self.folder, f"{self.name}.keys")
        os.mkdir(self.keys, 0o700)
        with open(os.path.join(self.keys, "keys.psk"), "w", encoding="ascii") as keys:
            keys.write(f"qemu:{secrets.token_hex(32)}\n")

    def choose(self, qemu, endpoint):
        """What the move before left there is undone."""
        tls, multifd = self.method == "qemu-tls", self.method == "qemu-multifd"
        set_up(qemu)
        qemu.call("migrate-set-capabilities",
                  capabilities=[{"capability": "multifd", "state": multifd}])
        qemu.call("migrate-set-parameters", **{
            "tls-creds": endpoint if tls else "", "multifd-channels": CHANNELS,
            "multifd-compression": "zstd" if multifd else "none"})
        if tls:
            qemu.call("object-add", **{"qom-type": "tls-creds-psk", "id": endpoint,
                                       "endpoint": endpoint, "dir": self.keys})

    def copy(self, source, destination, uri):
        self.choose(source, "client")
        self.choose(destination, "server")
        destination.call("migrate-incoming", uri=uri)
        source.call("migrate", uri=uri)
        return copy_by_events(source, time.monotonic() + self.move_limit) and \
            bool(destination.wait("RESUME"))
