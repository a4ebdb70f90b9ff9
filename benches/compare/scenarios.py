"""What is measured. A scenario takes a started proxy and gives figures: the first is the one that ratios are of."""

import re
import subprocess
import time

from peers import proxy_authorization
from world import AGENT_KEY, LOAD_CORE, Usage, pinned

LUA = """
wrk.path = "{path}"
"""


class Scenario:
    """`way` is the listener that it needs; `unit` belongs to its first figure."""

    def __init__(self, name, about, way, unit, measure, only=None, but=()):
        self.name, self.about, self.way, self.unit, self.measure = name, about, way, unit, measure
        self.only, self.but = only, but

    def suits(self, peer):
        able = not self.way or self.way in peer.ways
        return able and peer.name not in self.but and (self.only is None or peer.name in self.only)


class Failed(Exception):
    pass


class Load:
    """compare-load, from when it counts until it has counted."""

    def __init__(self, world, mode, **options):
        # Names of Python's that can't be ours, and values that aren't there.
        words = [f"{key}={value}" for key, value in options.items() if value is not None]
        command = [world.load, mode, *words]
        self.process = pinned(LOAD_CORE, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.process.stdout.readline().strip()
        if not line:
            raise Failed("the load broke off")
        return line

    def counts(self):
        found = {key: float(value) for key, value in (pair.split("=") for pair in self.line().split())}
        if found["errors"] > found["requests"] / 1000:
            raise Failed(f"{found['errors']:.0f} of {found['requests']:.0f} requests failed")
        return found

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.process.kill()


def small(cpu, requests, seconds, usage):
    return {"value": cpu / requests * 1e6, "rate": requests / seconds, "peak_mib": usage.peak() / 1024}


def counted(peer, seconds, mode, **options):
    """Requests through compare-load, and what the proxy used for them."""
    usage = Usage(peer.process)
    with Load(peer.world, mode, seconds=seconds, **options) as load:
        load.line()
        before = usage.cpu()
        counts = load.counts()
        return small(usage.cpu() - before, counts["requests"], counts["seconds"], usage)


def with_wrk(peer, seconds, url, path=None, header=None):
    script = peer.directory / "absolute.lua"
    script.write_text(LUA.format(path=path) if path else "")
    command = ["wrk", "-t1", "-c64", "-s", script, "-H", header, url]

    def go(duration):
        text = subprocess.run(["taskset", "-c", str(LOAD_CORE), *map(str, command), f"-d{duration}"], capture_output=True, text=True).stdout
        found = re.search(r"(\d+) requests in ([\d.]+)(m?s)", text)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text) or re.search(r"Socket errors: .*", text)
        if not found or bad:
            raise Failed(bad.group(0) if bad else text)
        return int(found[1])

    go(1)
    usage = Usage(peer.process)
    before, started = usage.cpu(), time.monotonic()
    requests = go(seconds)
    took = time.monotonic() - started
    return small(usage.cpu() - before, requests, took, usage)


def reverse(way):
    def measure(peer, seconds):
        return with_wrk(peer, seconds, f"http://127.0.0.1:{peer.ports[way]}/small", header=f"x-api-key: {AGENT_KEY}")

    return measure


def reverse_h2(peer, seconds):
    url = f"https://localhost:{peer.ports['h2']}/small"
    command = ["h2load", "-c16", "-m4", "-t1", "-H", f"x-api-key: {AGENT_KEY}"]

    def go(duration):
        text = subprocess.run(["taskset", "-c", str(LOAD_CORE), *command, "-D", str(duration), url], capture_output=True, text=True).stdout
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
        if not codes or int(codes[1]) == 0 or any(int(codes[each]) for each in (3, 4)):
            raise Failed(codes.group(0) if codes else text)
        return int(codes[1])

    go(1)
    usage = Usage(peer.process)
    before, started = usage.cpu(), time.monotonic()
    requests = go(seconds)
    return small(usage.cpu() - before, requests, time.monotonic() - started, usage)


def absolute(peer, seconds):
    path = f"http://localhost:{peer.world.http}/small"
    header = f"Proxy-Authorization: {proxy_authorization()}"
    return with_wrk(peer, seconds, f"http://127.0.0.1:{peer.ports['forward']}/", path, header)


def through_reverse(peer, way, path="/small"):
    return {"connect": f"127.0.0.1:{peer.ports[way]}", "path": path, "header": f"x-api-key: {AGENT_KEY}"}


def through_tunnel(peer, port, path="/small"):
    host = f"localhost:{port}"
    authorities = ",".join(str(each) for each in peer.authorities())
    way = {"connect": f"127.0.0.1:{peer.ports['forward']}", "tunnel": host, "proxy_auth": proxy_authorization()}
    return {**way, "host": host, "tls": "localhost", "ca": authorities, "path": path}


def intercept_h1(peer, seconds):
    return counted(peer, seconds, "keepalive", **through_tunnel(peer, peer.world.https))


def intercept_h2(peer, seconds):
    return counted(peer, seconds, "keepalive", connections=16, h2=4, **through_tunnel(peer, peer.world.h2))


def handshake(peer, seconds):
    return counted(peer, seconds, "handshake", **through_tunnel(peer, peer.world.https))


def bulk(up, tunnel):
    def measure(peer, seconds):
        size = (1 << 30) if seconds >= 4 else (1 << 28)
        path = "/bulk/2" if up else f"/bulk/{size}"
        way = through_tunnel(peer, peer.world.bulk_https, path) if tunnel else through_reverse(peer, "bulk", path)
        usage = Usage(peer.process)
        with Load(peer.world, "bulk", up=size if up else 0, **way) as load:
            load.line()
            before = usage.cpu()
            counts = load.counts()
            cpu = usage.cpu() - before
        gib = size / (1 << 30)
        return {"value": cpu / gib, "rate": gib * 1024 / counts["seconds"], "peak_mib": usage.peak() / 1024}

    return measure


def idle(tunnel):
    def measure(peer, seconds):
        count = 5000 if seconds >= 4 else 1000
        way = through_tunnel(peer, peer.world.https) if tunnel else through_reverse(peer, "plain")
        with Load(peer.world, "idle", **{**way, "connections": 16}) as load:
            load.counts()
        usage = Usage(peer.process)
        time.sleep(0.5)
        before = usage.resident()
        with Load(peer.world, "idle", **{**way, "connections": count}) as load:
            load.counts()
            time.sleep(1)
            grown = usage.resident() - before
        return {"value": grown / count, "rate": None, "peak_mib": usage.peak() / 1024}

    return measure


def cold_start(peer, _):
    """The peer is stopped and started again: from there to the first answer."""
    peer.stop()
    command = peer.command()
    way = through_reverse(peer, "plain") if "plain" in peer.ways else through_tunnel(peer, peer.world.https)
    started = time.monotonic()
    peer.start(command)
    with Load(peer.world, "first", **way) as load:
        load.counts()
        took = time.monotonic() - started
    return {"value": took * 1000, "rate": None, "peak_mib": Usage(peer.process).peak() / 1024}


def herd(peer, _):
    """64 agents at once after the token's end. How often is the authorization server asked?"""
    tokens = peer.world.tokens
    tokens.lifetime = 2
    peer.stop()
    peer.start()
    peer.ready()
    way = through_reverse(peer, "plain")
    try:
        with Load(peer.world, "herd", connections=1, **way) as load:
            load.counts()
        time.sleep(3)
        before = tokens.asked
        with Load(peer.world, "herd", connections=64, **way) as load:
            counts = load.counts()
        return {"value": tokens.asked - before, "rate": counts["requests"] / counts["seconds"], "peak_mib": Usage(peer.process).peak() / 1024}
    finally:
        tokens.lifetime = 3600


REQUEST, GIB, EACH = "CPU µs/request", "CPU s/GiB", "KiB each"
SCENARIOS = [
    Scenario("reverse-small", "1 KiB, HTTP/1.1, 64 connections, to an http origin", "plain", REQUEST, reverse("plain")),
    Scenario("reverse-https-small", "the same to an https origin", "https", REQUEST, reverse("https")),
    Scenario("reverse-h2-small", "1 KiB, HTTP/2 over TLS, 16 connections of 4 streams, to an http origin", "h2", REQUEST, reverse_h2),
    Scenario("absolute-small", "1 KiB, absolute-form through a forward proxy, 64 connections", "forward", REQUEST, absolute),
    Scenario("intercept-h1-small", "1 KiB, 64 intercepted tunnels kept alive, to an HTTP/1.1 origin", "forward", REQUEST, intercept_h1),
    Scenario("intercept-h2-small", "1 KiB, 16 intercepted tunnels of 4 streams, to an HTTP/2 origin", "forward", REQUEST, intercept_h2, but=("squid",)),
    Scenario("intercept-handshake", "1 KiB, a new intercepted tunnel each, 64 at a time", "forward", REQUEST, handshake),
    Scenario("bulk-reverse-down", "1 GiB down, http to http", "bulk", GIB, bulk(False, False)),
    Scenario("bulk-reverse-up", "1 GiB up, http to http", "bulk", GIB, bulk(True, False)),
    Scenario("bulk-intercept-down", "1 GiB down through an intercepted tunnel", "forward", GIB, bulk(False, True)),
    Scenario("bulk-intercept-up", "1 GiB up through an intercepted tunnel", "forward", GIB, bulk(True, True)),
    Scenario("idle-reverse", "5,000 connections, each used once", "plain", EACH, idle(False)),
    Scenario("idle-intercept", "5,000 intercepted tunnels, each used once", "forward", EACH, idle(True)),
    Scenario("cold-start", "from the start of the program to the first answer", "", "ms", cold_start),
    Scenario("herd", "64 agents at once, the token just expired", "plain", "token requests", herd, only=("cupbearer",)),
]
