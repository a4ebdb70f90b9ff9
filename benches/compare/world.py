"""What every proxy is measured between: certificates, the origin, and whoever issues cupbearer's tokens."""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

PROXY_CORE = os.cpu_count() - 1
LOAD_CORE = 0
AGENT_KEY = "agent-" + "0123456789abcdef" * 2
TICK = os.sysconf("SC_CLK_TCK")

# HTTP/2's ALPN, so that a client that may choose gets it, and none.
NGINX = """
daemon off; master_process off; worker_rlimit_nofile 40000; pid {run}/origin.pid; error_log {run}/origin.log error;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; http2_max_concurrent_streams 1000;
  client_body_temp_path {run}/t1; proxy_temp_path {run}/t2; fastcgi_temp_path {run}/t3; uwsgi_temp_path {run}/t4; scgi_temp_path {run}/t5;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_cache shared:a:1m; ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl backlog=4096; listen 127.0.0.1:{h2} ssl http2 backlog=4096;
    location = /small {{
      # An answer counts only where the request came with a credential.
      if ($http_authorization !~ "^Bearer .") {{ return 401; }}
      default_type {type}; return 200 '{body}';
    }}
  }}
}}
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def pinned(core, command, **options):
    return subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], **options)


class World:
    """One run's directory, and what runs beside the proxies."""

    def __init__(self, work, content_type):
        self.work = pathlib.Path(work)
        self.run = pathlib.Path(tempfile.mkdtemp(prefix="run.", dir=self.work))
        self.run.chmod(0o755)  # squid and others leave root's rights behind
        self.load = self.work / "target/release/compare-load"
        self.children = []
        self._certificates()
        self.tokens = Tokens()
        self.content_type = content_type
        self.http, self.https, self.h2, self.bulk_http, self.bulk_https = free_ports(5)

    def begin(self):
        for each in range(1, 6):
            (self.run / f"t{each}").mkdir()
        config = self.run / "origin.conf"
        body = json.dumps({"object": "list", "data": "x" * 1024})[: 1024 - 2] + '"}'
        config.write_text(NGINX.format(run=self.run, type=self.content_type, body=body, **self.ports(), **self.tls()))
        self.start(LOAD_CORE, ["nginx", "-c", config, "-p", self.run])
        listen = [f"http=127.0.0.1:{self.bulk_http}", f"https=127.0.0.1:{self.bulk_https}"]
        tls = [f"certificate={self.certificate}", f"key={self.key}"]
        self.start(LOAD_CORE, [self.load, "origin", *listen, *tls], stdout=subprocess.DEVNULL)
        for port in self.ports().values():
            reachable(port)

    def ports(self):
        return {"http": self.http, "https": self.https, "h2": self.h2, "bulk_http": self.bulk_http, "bulk_https": self.bulk_https}

    def tls(self):
        return {"certificate": self.certificate, "key": self.key, "ca": self.ca, "ca_key": self.ca_key}

    def start(self, core, command, **options):
        child = pinned(core, command, **options)
        self.children.append(child)
        return child

    def stop(self):
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(10)
        self.tokens.server.shutdown()
        shutil.rmtree(self.run, ignore_errors=True)

    def _certificates(self):
        there = self.run / "tls"
        there.mkdir()
        self.ca, self.ca_key = there / "ca.pem", there / "ca.key"
        self.certificate, self.key = there / "server.pem", there / "server.key"
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        quiet = {"check": True, "stderr": subprocess.DEVNULL}
        subprocess.run(
            ["openssl", "req", "-x509", *new_key, "-days", "30", "-subj", "/CN=compare", "-keyout", self.ca_key, "-out", self.ca]
            + ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
            **quiet,
        )
        request, extensions = there / "server.csr", there / "server.ext"
        subprocess.run(["openssl", "req", *new_key, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request], **quiet)
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        subprocess.run(
            ["openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial"]
            + ["-days", "30", "-extfile", extensions, "-out", self.certificate],
            **quiet,
        )


def reachable(port, seconds=30, process=None):
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline or (process and process.poll() is not None):
                raise TimeoutError(f"nobody listens on port {port}") from None
            time.sleep(0.02)


class Tokens:
    """A token endpoint: client_credentials, and a count of how often it was asked."""

    def __init__(self):
        self.asked = 0
        self.lifetime = 3600
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                outer.asked += 1
                token = base64.urlsafe_b64encode(hashlib.sha256(str(outer.asked).encode()).digest()).decode()
                answer = {"access_token": token, "token_type": "Bearer", "expires_in": outer.lifetime}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Usage:
    """What a process and its descendants have used: CPU in seconds, memory in KiB."""

    def __init__(self, process):
        self.pid = process.pid

    def _family(self):
        parents = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
        family, grown = {self.pid}, True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            family |= more
            grown = bool(more)
        return family

    def cpu(self):
        ticks = 0
        for pid in self._family():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # utime and stime of all threads; cutime and cstime of children that have ended.
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICK

    def _memory(self, file, key):
        total = 0
        for pid in self._family():
            try:
                text = pathlib.Path(f"/proc/{pid}/{file}").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(key))
        return total

    def peak(self):
        return self._memory("status", "VmHWM:")

    def resident(self):
        return self._memory("smaps_rollup", "Pss:")


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
