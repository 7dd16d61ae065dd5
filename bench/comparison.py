# SPDX-License-Identifier: MIT
"""What bench/blackout says of its samples: a case for each link, load and method, and the aims."""
import statistics

import figures

# What ferry's blackout is made of, as the source's shim measured it.
PARTS = {"stop to completed": "stop_to_completed_usec", "handover": "handover_usec",
         "journal": "journal_sync_usec", "resume": "resume_usec"}


def case(link, load, method, samples):
    ended = [s for s in samples if s["converged"]]
    result = {"link": link.name, "load": load, "method": method, "tried": len(samples),
              "converged": len(ended), "samples": samples}
    if not ended:
        return result
    for name in ("blackout_ms", "total_ms", "passes", "bytes"):
        result[name] = figures.summary([s[name] for s in ended])
    if "source" in ended[0]:
        result["parts_ms"] = {part: figures.summary([s["source"][field] / 1e3 for s in ended])
                              for part, field in PARTS.items()}
        result["own_minus_events_ms"] = figures.summary(
            [s["own_blackout_ms"] - s["blackout_ms"] for s in ended])
    if link.rate:
        add_physics(result, ended, link.rate)
    return result


def add_physics(result, ended, rate):
    """What the link alone would need for the bytes that were sent."""
    result["total_by_physics"] = round(statistics.median(
        s["total_ms"] / (s["bytes"] / rate * 1e3) for s in ended), 3)
    if "blackout_bytes" not in ended[0]:  # virsh does not tell
        return
    needed = [s["blackout_bytes"] / rate * 1e3 for s in ended]
    result["physics_ms"] = figures.summary(needed)
    result["over_physics_ms"] = figures.summary(
        [s["blackout_ms"] - least for s, least in zip(ended, needed)])


class Place:
    """The cases of one link and load."""

    def __init__(self, name, load, cases):
        self.name, self.load = name, load
        self.cases = {case["method"]: case for case in cases}

    def median(self, method, figure):
        """None when it was not measured, or never ended."""
        return self.cases.get(method, {}).get(figure, {}).get("median")

    def ratio(self, over, under, figure, limit):
        """An aim, where both ended."""
        mine, theirs = self.median(over, figure), self.median(under, figure)
        if mine is None or theirs is None:
            return []
        return [figures.aim(f"{self.name}: {over} / {under}, {figure.split('_')[0]} (medians)",
                            mine / theirs, limit)]

    def above_floor(self):
        mine, floor = self.median("ferry", "blackout_ms"), self.median("floor", "blackout_ms")
        if mine is None or floor is None:
            return []
        return [figures.aim(f"{self.name}: ferry's blackout, ms (floor {floor})", mine,
                            round(floor + max(1.5, floor / 4), 3))]

    def spread(self):
        if self.median("ferry", "blackout_ms") is None:
            return []
        blackout = self.cases["ferry"]["blackout_ms"]
        return [figures.aim(f"{self.name}: ferry's blackout, p95 / median",
                            blackout["p95"] / blackout["median"], 3)]

    def own_figure(self):
        mine = self.cases.get("ferry", {}).get("own_minus_events_ms")
        if not mine:
            return []
        return [figures.aim(f"{self.name}: ferry's own figure off the events', ms (median)",
                            abs(mine["median"]), 1)]

    def convergence(self):
        """What ferry did not move of what another one moves."""
        others = [name for name, case in self.cases.items()
                  if not name.startswith("ferry") and case["converged"]]
        return [figures.aim(f"{self.name}: moves by {name} that did not converge"
                            + (f" ({', '.join(others)} moved it)" if others else ""),
                            case["tried"] - case["converged"] if others else 0, 0)
                for name, case in self.cases.items() if name.startswith("ferry")]

    def aims(self):
        idle = self.load == "idle"
        return [*self.above_floor(),
                *self.ratio("ferry", "virsh", "blackout_ms", 0.1 if idle else 0.3),
                *self.spread(),
                *self.ratio("ferry-forced", "plain-forced", "blackout_ms", 0.7),
                *(self.ratio("ferry", "virsh", "total_ms", 0.3) if idle else []),
                *self.ratio("ferry", "plain", "total_ms", 1.5),
                *self.convergence(), *self.own_figure()]


def places(cases, kind=Place):
    grouped = {}
    for item in cases:
        grouped.setdefault((item["link"], item["load"]), []).append(item)
    return [kind(f"{link}, {load}", load, some) for (link, load), some in grouped.items()]


def aims(cases):
    return [aim for place in places(cases) for aim in place.aims()]


def figure_cells(item):
    if not item["converged"]:
        return ["-"] * 7
    blackout = item["blackout_ms"]
    return [*(f"{blackout[c]:.1f}" for c in ("median", "p95", "min", "max")),
            f"{item['total_ms']['median']:.0f}", f"{item['passes']['median']:.0f}",
            f"{item['bytes']['median'] / 2**20:.1f}"]


def to_ferry(place, method):
    """How many times ferry's: of the forced, the forced one's."""
    mine = place.median("ferry-forced" if method.endswith("-forced") else "ferry", "blackout_ms")
    theirs = place.median(method, "blackout_ms")
    return f"{theirs / mine:.2f}" if mine and theirs else "-"


def print_places(cases):
    rows = [[f"{place.name}, {method}", f"{item['converged']}/{item['tried']}",
             *figure_cells(item), to_ferry(place, method)]
            for place in places(cases) for method, item in place.cases.items()]
    figures.table(["blackout in ms", "moved", "median", "p95", "min", "max", "total ms", "passes",
                   "MiB", "x ferry's"], rows)


def print_parts(cases):
    rows = [[f"{item['link']}, {item['load']}, {item['method']}",
             *(f"{part['median']:.1f}" for part in item["parts_ms"].values()),
             f"{item['own_minus_events_ms']['median']:+.2f}"]
            for item in cases if "parts_ms" in item]
    if rows:
        print()
        figures.table(["ferry's, by part (medians)", *PARTS, "own - events"], rows)


def print_physics(report):
    for link in report["links"]:
        rows = [[f"{item['link']}, {item['load']}, {item['method']}",
                 f"{item['physics_ms']['median']:.1f}", f"{item['over_physics_ms']['median']:.1f}",
                 f"{item['total_by_physics']:.2f}"]
                for item in report["cases"] if "physics_ms" in item and item["link"] == link["link"]]
        if rows:
            print(f"\n{link['link']} takes {link['bytes_per_second'] / 1e6:.0f} MB/s; one TCP stream got "
                  f"{link['tcp_bytes_per_second'] / 1e6:.0f} through. For the bytes that were sent "
                  "in the blackout it needs:")
            figures.table(["", "ms", "ms over it", "total / its"], rows)


def print_report(report):
    print_places(report["cases"])
    print_parts(report["cases"])
    print_physics(report)
    figures.print_aims(report["aims"])
    for text in report["skipped"]:
        print(f"left out: {text}")
    print(f"{report['rounds']} moves of each kind in {report['seconds']} s; "
          f"{report['machine']['cpus']} CPUs, load {report['machine']['load_before']} before")
