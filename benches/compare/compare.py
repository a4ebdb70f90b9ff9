"""Runs scenarios against proxies in paired rounds and prints the table. Started by `run`, which installs what this needs."""

import argparse
import atexit
import json
import os
import signal
import statistics
import sys
import time
import traceback

import peers
import scenarios
from world import World


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare/run", description="cupbearer beside other proxies")
    parser.add_argument("--list", action="store_true", help="say what there is, and start nothing")
    parser.add_argument("--quick", action="store_true", help="2 short rounds")
    parser.add_argument("--rounds", type=int, help="how often each proxy is measured in each scenario (6)")
    parser.add_argument("--seconds", type=int, help="how long a load lasts (5)")
    parser.add_argument("--only", help="scenarios whose name contains one of these, comma-separated")
    parser.add_argument("--peers", help="these proxies beside cupbearer, comma-separated")
    parser.add_argument("--type", default="application/json", help="Content-Type of the origin's small answers")
    parser.add_argument("--json", help="writes every figure of every round into this file")
    parser.add_argument("--markdown", action="store_true", help="ends with tables as in docs/performance.md")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.seconds = options.seconds or (2 if options.quick else 5)
    return options


def chosen(options):
    wanted = options.only.split(",") if options.only else [""]
    found = [each for each in scenarios.SCENARIOS if any(part in each.name for part in wanted)]
    names = options.peers.split(",") if options.peers else [peer.name for peer in peers.PEERS]
    return found, [peer for peer in peers.PEERS if peer.name == "cupbearer" or peer.name in names]


def list_all():
    for scenario in scenarios.SCENARIOS:
        able = [peer.name for peer in peers.PEERS if scenario.suits(peer)]
        print(f"{scenario.name:22} {scenario.about} [{scenario.unit}]: {', '.join(able)}")


def main():
    options = arguments()
    if options.list:
        return list_all()
    if os.cpu_count() < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load")
    wanted, proxies = chosen(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    world = World(options.work, options.type)
    atexit.register(world.stop)
    world.begin()
    absent = {peer.name: why for peer in proxies if (why := peer.missing(world))}
    proxies = [peer for peer in proxies if peer.name not in absent]
    print(f"{os.cpu_count()} cores, {options.rounds} rounds of {options.seconds} s, small answers {options.type}", flush=True)
    figures = {}
    try:
        for scenario in wanted:
            able = [peer for peer in proxies if scenario.suits(peer)]
            figures[scenario.name] = rounds(options, scenario, able, world)
            table(scenario, figures[scenario.name])
    finally:
        if options.json:
            with open(options.json, "w") as file:
                json.dump(figures, file, indent=1)
    if options.markdown:
        for title, kind in (("as a reverse proxy", "reverse"), ("as a forward proxy", "")):
            markdown(title, {name: runs for name, runs in figures.items() if ("reverse" in name) == bool(kind)})
    for name, why in absent.items():
        print(f"not measured: {name} ({why})")


def rounds(options, scenario, able, world):
    """Every proxy once a round, each round beginning with another: what the machine does besides hits all alike."""
    figures = {peer.name: [] for peer in able}
    for number in range(options.rounds):
        shift = number % max(len(able), 1)
        for kind in able[shift:] + able[:shift]:
            found = once(kind, scenario, world, options.seconds)
            print(f"  {scenario.name} {number + 1}/{options.rounds} {kind.name}: {found}", file=sys.stderr, flush=True)
            figures[kind.name].append(found)
    return figures


def once(kind, scenario, world, seconds):
    peer = kind(world)
    try:
        peer.start()
        peer.ready()
        return scenario.measure(peer, seconds)
    except Exception as failure:  # one proxy's fault must not end the run
        if not isinstance(failure, scenarios.Failed):
            traceback.print_exc()
        log = peer.directory / "log"
        if log.exists():
            sys.stderr.write(log.read_text(errors="replace")[-1000:])
        return {"failed": str(failure)[:200] or type(failure).__name__}
    finally:
        if peer.process:
            peer.stop()
        time.sleep(0.2)


def median(values):
    return statistics.median(values) if values else None


def ratios_of(ours, theirs):
    """cupbearer's figure by the peer's, round by round."""
    pairs = zip(ours, theirs)
    return [a["value"] / b["value"] for a, b in pairs if "failed" not in a and "failed" not in b and b["value"] > 0]


def values(runs):
    return [run["value"] for run in runs if "failed" not in run]


def short(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def markdown(title, figures):
    names = [peer.name for peer in peers.PEERS if peer.name != "cupbearer" and any(peer.name in runs for runs in figures.values())]
    print(f"\n| {title} | cupbearer | {' | '.join(names)} |\n| --- | --- |{' --- |' * len(names)}")
    for scenario, runs in figures.items():
        ours = runs.get("cupbearer", [])
        cells = [short(median(values(ours))) if values(ours) else "failed"]
        for name in names:
            ratio = median(ratios_of(ours, runs.get(name, [])))
            failed = "failed" if name in runs else ""
            cells.append(f"{short(median(values(runs[name])))}: **{ratio:.2f}**" if ratio else failed)
        print(f"| `{scenario}` | {' | '.join(cells)} |")


def table(scenario, figures):
    ours = figures.get("cupbearer", [])
    print(f"\n{scenario.name}: {scenario.about}")
    rate = "MiB/s" if scenario.unit == scenarios.GIB else "per s"
    print(f"  {'':12} {scenario.unit:>14} {'cupbearer is':>14} {'(range)':>14} {rate:>9} {'peak MiB':>9}")
    for name, runs in figures.items():
        good = [run for run in runs if "failed" not in run]
        if not good:
            print(f"  {name:12} failed: {runs[0]['failed'] if runs else 'not run'}")
            continue
        ratios = ratios_of(ours, runs)
        ratio = f"{median(ratios):.2f} ×" if ratios and name != "cupbearer" else ""
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}" if ratio else ""
        speed = median([run["rate"] for run in good if run["rate"]])
        lost = f"  ({len(runs) - len(good)} of {len(runs)} failed)" if len(good) < len(runs) else ""
        value, peak = median(values(runs)), median([run["peak_mib"] for run in good])
        print(f"  {name:12} {value:14.2f} {ratio:>14} {spread:>14} {f'{speed:.0f}' if speed else '':>9} {peak:9.1f}{lost}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
