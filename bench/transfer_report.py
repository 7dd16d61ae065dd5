# SPDX-License-Identifier: MIT
"""What bench/transfer says of its samples: a case for each link, load and method, and issue 5's aims.

An aim is there when all that it compares was measured.
"""
import statistics

import comparison
import figures

GIB = 2**30
FULL = ("random", "typical")  # guests with a GiB to send
UNSHAPED, ONE_GBIT = "loopback", "1gbit"
SLOW_RATE = 125 * 10**6  # bytes a second: links that compression is for
NO_BYTES = 0.05  # of the CPU time: what the shims need for the session itself


def case(link, load, method, samples):
    ended = [s for s in samples if s["converged"]]
    result = {"link": link.name, "rate": link.rate, "load": load, "method": method,
              "tried": len(samples), "converged": len(ended), "samples": samples}
    if not ended:
        return result
    for name in ("total_ms", "transfer_ms", "blackout_ms", "cpu_s", "shims_cpu_s", "wire_bytes",
                 "page_bytes", "passes"):
        result[name] = figures.summary([s[name] for s in ended])
    result["bytes_per_second"] = figures.summary(
        [s["page_bytes"] / s["transfer_ms"] * 1e3 for s in ended])
    result["cpu_s_per_gib"] = figures.summary(
        [s["cpu_s"] / s["page_bytes"] * GIB for s in ended])
    return result


class Place(comparison.Place):
    """The cases of one link and load, and which aims are about them."""

    def __init__(self, name, load, cases):
        super().__init__(name, load, cases)
        self.link, self.rate = cases[0]["link"], cases[0]["rate"]

    def compared(self, make, what, over, under, figure, limit):
        mine, theirs = self.median(over, figure), self.median(under, figure)
        if mine is None or not theirs:
            return []
        return [make(f"{self.name}: {over} / {under}, {what}", mine / theirs, limit)]

    def plain_path(self):
        mine, all_of_it = self.median("plain", "shims_cpu_s"), self.median("plain", "cpu_s")
        if mine is None or not all_of_it:
            return []
        return [figures.aim(f"{self.name}: plain, the shims' part of the CPU time (no byte goes "
                            "through them)", mine / all_of_it, NO_BYTES)]

    def faster(self, over, under, limit):
        return self.compared(figures.aim_at_least, "throughput", over, under, "bytes_per_second", limit)

    def at_most(self, what, figure, over, under, limit):
        return self.compared(figures.aim, what, over, under, figure, limit)

    def of_full_guests(self):
        unshaped = self.link == UNSHAPED
        found = self.plain_path()
        if self.link == ONE_GBIT:
            found += self.faster("checksums", "plain", 0.95)
        if unshaped:
            found += self.faster("checksums", "plain", 0.6)
            found += self.at_most("CPU s/GiB", "cpu_s_per_gib", "checksums", "plain", 2)
            found += self.faster("tls", "qemu-tls", 3)
            found += self.at_most("CPU s/GiB", "cpu_s_per_gib", "tls", "qemu-tls", 0.4)
        if self.link == ONE_GBIT and self.load == "typical":
            found += self.at_most("total", "total_ms", "compression", "plain", 0.5)
        if self.rate and self.rate <= SLOW_RATE and self.load == "random":
            found += self.at_most("total", "total_ms", "compression", "plain", 1.05)
        return found

    def of_the_hot_set(self):
        mine = self.median("postcopy", "blackout_ms")
        if mine is None:
            return []
        return [figures.aim(f"{self.name}: postcopy's blackout, ms", mine, 50),
                *self.at_most("blackout", "blackout_ms", "postcopy", "forced", 0.3)]

    def aims(self):
        return [*(self.of_full_guests() if self.load in FULL else []),
                *self.at_most("blackout", "blackout_ms", "all", "plain", 1.3),
                *(self.of_the_hot_set() if self.load == "hot" else [])]


def places(cases):
    return comparison.places(cases, Place)


def aims(cases):
    return [aim for place in places(cases) for aim in place.aims()]


def cells(item):
    if not item["converged"]:
        return ["-"] * 8
    median = {name: value["median"] for name, value in item.items() if isinstance(value, dict)}
    return [f"{median['total_ms']:.0f}", f"{median['transfer_ms']:.0f}",
            f"{median['bytes_per_second'] / 1e6:.0f}", f"{median['blackout_ms']:.1f}",
            f"{median['cpu_s']:.2f}", f"{median['shims_cpu_s']:.2f}",
            f"{median['cpu_s_per_gib']:.2f}", f"{median['wire_bytes'] / 2**20:.0f}"]


def spread(item):
    """Of the transfer's times: (largest - smallest) / median."""
    if not item["converged"]:
        return "-"
    times = [s["transfer_ms"] for s in item["samples"] if s["converged"]]
    return f"{(max(times) - min(times)) / statistics.median(times):.0%}"


def print_report(report):
    rows = [[f"{place.name}, {method}", f"{item['converged']}/{item['tried']}", *cells(item),
             spread(item)]
            for place in places(report["cases"]) for method, item in place.cases.items()]
    figures.table(["medians", "moved", "total ms", "transfer ms", "MB/s", "blackout ms", "CPU s",
                   "of shims", "CPU s/GiB", "MiB on the wire", "spread"], rows)
    for link in report["links"]:
        if link["bytes_per_second"]:
            print(f"{link['link']} takes {link['bytes_per_second'] / 1e6:.0f} MB/s; one TCP stream "
                  f"got {link['tcp_bytes_per_second'] / 1e6:.0f} through")
    figures.print_aims(report["aims"])
    for text in report["skipped"]:
        print(f"left out: {text}")
    print(f"{report['seconds']} s; {report['machine']['cpus']} CPUs, load "
          f"{report['machine']['load_before']} before")
