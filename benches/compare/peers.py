"""The proxies: what each can do, how it is configured for it, and how it is started.

Each injects `Authorization` into every request. cupbearer alone also knows its agents, decides by route, holds a
token that it got from an authorization server, and writes a record and metrics.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess

from world import AGENT_KEY, PROXY_CORE, end, free_ports, pinned, reachable

# plain, https: an http listener, to the origin's http or https; h2: an https listener, to http;
# bulk: plain, to the origin of bulk transfers; forward: a forward proxy that intercepts.
REVERSE = ("plain", "https", "h2", "bulk")
WAYS = (*REVERSE, "forward")


class Peer:
    name = ""
    ways = ()

    def __init__(self, world):
        self.world = world
        self.ports = dict(zip(WAYS, free_ports(len(WAYS))))
        self.directory = world.run / self.name
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        self.process = None

    @classmethod
    def missing(cls, world):
        """Why it can't be started, or None."""
        program = cls.program(world)
        return None if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") else f"{program} is not installed"

    @classmethod
    def program(cls, world):
        return cls.name

    def command(self):
        raise NotImplementedError

    def authorities(self):
        """What clients of an intercepted tunnel trust."""
        return [self.world.ca]

    def start(self, command=None):
        command = command or self.command()
        self.log = open(self.directory / "log", "wb")
        self.process = pinned(PROXY_CORE, command, stdout=self.log, stderr=self.log, cwd=self.directory)
        return self.process

    def ready(self):
        for way in self.ways:
            reachable(self.ports[way], process=self.process)

    def stop(self):
        end(self.process)
        self.log.close()

    def write(self, name, text):
        file = self.directory / name
        file.write_text(text)
        return file

    def values(self):
        return {**self.world.ports(), **self.world.tls(), "dir": self.directory, **{f"p_{k}": v for k, v in self.ports.items()}}


class Cupbearer(Peer):
    name = "cupbearer"
    ways = WAYS
    config = """
[proxy]
listen = "127.0.0.1:{p_forward}"

[[reverse]]
name = "plain"
listen = "127.0.0.1:{p_plain}"
upstream = "http://localhost:{http}"

[[reverse]]
name = "https"
listen = "127.0.0.1:{p_https}"
upstream = "https://localhost:{https}"

[[reverse]]
name = "h2"
listen = "127.0.0.1:{p_h2}"
tls = {{ certificate = "{certificate}", key = "{key}" }}
upstream = "http://localhost:{http}"

[[reverse]]
name = "bulk"
listen = "127.0.0.1:{p_bulk}"
upstream = "http://localhost:{bulk_http}"

[admin]
listen = "127.0.0.1:0"

# As many as the others may keep.
[limits]
upstream_idle_connections = 1024
connections_per_agent = 10000
requests_per_agent = 10000

[state]
directory = "{dir}/state"
store = "memory"

[resolve]
localhost = "127.0.0.1"

[authorization_servers.tokens]
token_endpoint = "http://127.0.0.1:{tokens}/token"
danger_allow_http = true

[credentials.api]
grant = "client_credentials"
authorization_server = "tokens"
client_id = "compare"
client_auth = {{ method = "client_secret_post", secret = {{ file = "{dir}/secret" }} }}
hosts = [{hosts}]

[agents.compare]
key_sha256 = "{agent}"

[[routes]]
name = "api"
hosts = [{hosts}]
methods = ["GET", "PUT"]
paths = ["/small", "/bulk/**"]
agents = ["compare"]
credential = "api"
upstream_ca = "{ca}"
danger_allow_private_addresses = ["127.0.0.0/8"]
danger_allow_plaintext = true
"""

    @classmethod
    def program(cls, world):
        return os.environ["CUPBEARER_BIN"]

    def command(self):
        secret = self.write("secret", "0123456789abcdef")
        secret.chmod(0o600)
        hosts = ", ".join(f'"localhost:{port}"' for port in self.world.ports().values())
        agent = hashlib.sha256(AGENT_KEY.encode()).hexdigest()
        text = self.config.format(hosts=hosts, agent=agent, tokens=self.world.tokens.port, **self.values())
        cupbearer = [self.program(self.world), "--log", "json", "--config", self.write("proxy.toml", text)]
        # The first that is said to the state directory makes the authority.
        exported = subprocess.run([*cupbearer, "ca", "export"], check=True, stdout=subprocess.PIPE, text=True)
        self.authority = self.write("authority.pem", exported.stdout)
        return [*cupbearer, "serve"]

    def authorities(self):
        return [self.authority]


class Nginx(Peer):
    name = "nginx"
    ways = REVERSE
    config = """
daemon off; worker_processes 1; worker_rlimit_nofile 40000; pid {dir}/pid; error_log {dir}/error.log error; user root;
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_cache shared:a:1m; ssl_protocols TLSv1.2 TLSv1.3;
  upstream plain {{ server 127.0.0.1:{http}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream https {{ server 127.0.0.1:{https}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream bulk {{ server 127.0.0.1:{bulk_http}; keepalive 16; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "Bearer fixed"; proxy_set_header x-api-key "";
  proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_session_reuse on;
  client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
  server {{ listen 127.0.0.1:{p_plain} backlog=4096; location / {{ proxy_pass http://plain; }} }}
  server {{ listen 127.0.0.1:{p_https} backlog=4096; location / {{ proxy_pass https://https; }} }}
  server {{ listen 127.0.0.1:{p_h2} ssl http2 backlog=4096; location / {{ proxy_pass http://plain; }} }}
  server {{ listen 127.0.0.1:{p_bulk}; location / {{ proxy_pass http://bulk; }} }}
}}
"""

    def command(self):
        return ["nginx", "-c", self.write("nginx.conf", self.config.format(**self.values())), "-p", self.directory]


class Haproxy(Peer):
    name = "haproxy"
    ways = REVERSE
    config = """
global
  nbthread 1
  maxconn 8000
  tune.ssl.default-dh-param 2048
defaults
  mode http
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  http-reuse always
  option http-keep-alive
frontend plain
  bind 127.0.0.1:{p_plain}
  http-request set-header Authorization "Bearer fixed"
  http-request del-header x-api-key
  default_backend plain
frontend https
  bind 127.0.0.1:{p_https}
  http-request set-header Authorization "Bearer fixed"
  http-request del-header x-api-key
  default_backend https
frontend h2
  bind 127.0.0.1:{p_h2} ssl crt {pem} alpn h2,http/1.1
  http-request set-header Authorization "Bearer fixed"
  http-request del-header x-api-key
  default_backend plain
frontend bulk
  bind 127.0.0.1:{p_bulk}
  http-request set-header Authorization "Bearer fixed"
  http-request del-header x-api-key
  default_backend bulk
backend plain
  server origin 127.0.0.1:{http}
backend https
  server origin 127.0.0.1:{https} ssl verify required ca-file {ca} sni str(localhost) verifyhost localhost
backend bulk
  server origin 127.0.0.1:{bulk_http}
"""

    def command(self):
        pem = self.write("server.pem", self.world.certificate.read_text() + self.world.key.read_text())
        return ["haproxy", "-db", "-f", self.write("haproxy.cfg", self.config.format(pem=pem, **self.values()))]


class Built(Peer):
    @classmethod
    def program(cls, world):
        return str(world.work / f"target/release/compare-{cls.name}")


class Pingora(Built):
    name = "pingora"
    ways = REVERSE

    def command(self):
        ports, world = self.ports, self.world
        listeners = [("plain", "http-http", world.http), ("https", "http-https", world.https)]
        listeners += [("h2", "https-http", world.http), ("bulk", "http-http", world.bulk_http)]
        arguments = [f"127.0.0.1:{ports[way]}={kind}=127.0.0.1:{port}" for way, kind, port in listeners]
        return [self.program(world), world.certificate, world.key, world.ca, *arguments]


class Hudsucker(Built):
    """As its documentation starts it, with `#[tokio::main]`, which on one core means one worker."""

    name = "hudsucker"
    ways = ("forward",)

    def command(self):
        return [self.program(self.world), f"127.0.0.1:{self.ports['forward']}", self.world.ca, self.world.ca_key]


class HudsuckerCurrentThread(Hudsucker):
    """On a runtime that is a single thread: the least that it can cost."""

    name = "hudsucker-current-thread"

    @classmethod
    def program(cls, world):
        return Hudsucker.program(world)

    def command(self):
        return [*super().command(), "current-thread"]


class Squid(Peer):
    name = "squid"
    ways = ("forward",)
    config = """
http_port 127.0.0.1:{p_forward} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert={pem}
sslcrtd_program /usr/lib/squid/security_file_certgen -s {dir}/certificates -M 4MB
sslcrtd_children 1
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
tls_outgoing_options cafile={ca}
http_access allow all
request_header_access Authorization deny all
request_header_access Proxy-Authorization deny all
request_header_add Authorization "Bearer fixed" all
cache deny all
access_log none
cache_log {dir}/cache.log
cache_store_log none
pid_filename {dir}/squid.pid
coredump_dir {dir}
workers 1
max_filedescriptors 40000
via off
forwarded_for delete
server_persistent_connections on
client_persistent_connections on
shutdown_lifetime 0 seconds
pinger_enable off
visible_hostname localhost
"""

    def command(self):
        pem = self.write("ca.pem", self.world.ca.read_text() + self.world.ca_key.read_text())
        made = self.directory / "certificates"
        generator = ["/usr/lib/squid/security_file_certgen", "-c", "-s", made, "-M", "4MB"]
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run(generator, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        config = self.write("squid.conf", self.config.format(pem=pem, **self.values()))
        if os.geteuid() == 0:  # it leaves root's rights behind
            subprocess.run(["chown", "-R", "proxy:proxy", self.directory], check=True)
        return ["squid", "-N", "-f", config]


class Mitmproxy(Peer):
    name = "mitmproxy"
    ways = WAYS

    @classmethod
    def program(cls, world):
        return str(world.work / "venv/bin/mitmdump")

    def command(self):
        self.write("mitmproxy-ca.pem", self.world.ca.read_text() + self.world.ca_key.read_text())
        server = self.write("server.pem", self.world.certificate.read_text() + self.world.key.read_text())
        ports, world = self.ports, self.world
        modes = [f"reverse:http://localhost:{world.http}@127.0.0.1:{ports[way]}" for way in ("plain", "h2")]
        modes += [f"reverse:https://localhost:{world.https}@127.0.0.1:{ports['https']}"]
        modes += [f"reverse:http://localhost:{world.bulk_http}@127.0.0.1:{ports['bulk']}"]
        modes += [f"regular@127.0.0.1:{ports['forward']}"]
        settings = [f"confdir={self.directory}", f"ssl_verify_upstream_trusted_ca={world.ca}", "stream_large_bodies=1m"]
        settings += ["flow_detail=0", "connection_strategy=lazy", f"certs=localhost={server}"]
        arguments = [word for mode in modes for word in ("--mode", mode)]
        arguments += [word for setting in settings for word in ("--set", setting)]
        return [self.program(world), "-q", *arguments, "--modify-headers", "/~q/Authorization/Bearer fixed"]


class Envoy(Peer):
    name = "envoy"
    ways = WAYS

    @classmethod
    def program(cls, world):
        found = list(world.work.glob("venv/lib/python3*/site-packages/envoy/_bin/envoy"))
        return str(found[0]) if found else "envoy"

    def command(self):
        config = self.write("envoy.json", json.dumps(envoy_config(self.ports, self.world)))
        return [self.program(self.world), "-c", config, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


TLS = "envoy.extensions.transport_sockets.tls.v3."


def envoy_tls_down(world):
    certificate = {"certificate_chain": {"filename": str(world.certificate)}, "private_key": {"filename": str(world.key)}}
    common = {"tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"]}
    context = typed(TLS + "DownstreamTlsContext", common_tls_context=common)
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def envoy_cluster(name, port, world=None, protocol=None):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_requests": 20000, "max_pending_requests": 20000}]},
    }
    if protocol:
        options = typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", **protocol)
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    if world:
        names = [{"san_type": "DNS", "matcher": {"exact": "localhost"}}]
        validation = {"trusted_ca": {"filename": str(world.ca)}, "match_typed_subject_alt_names": names}
        context = typed(TLS + "UpstreamTlsContext", sni="localhost", common_tls_context={"validation_context": validation})
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return cluster


def envoy_manager(prefix, routes, **more):
    """A connection manager; `routes` are pairs of a host and what to do with its requests."""
    hosts = []
    for number, (domain, route) in enumerate(routes):
        rules = [{"match": {"prefix": "/"}, "route": {"cluster": route, "timeout": "0s"}}]
        if route == "intercept":
            upgrade = [{"upgrade_type": "CONNECT", "connect_config": {}}]
            rules = [{"match": {"connect_matcher": {}}, "route": {"cluster": route, "timeout": "0s", "upgrade_configs": upgrade}}]
        hosts.append({"name": f"{prefix}{number}", "domains": [domain], "routes": rules})
    header = {"header": {"key": "authorization", "value": "Bearer fixed"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    remove = ["proxy-authorization", "x-api-key"]
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=prefix,
        route_config={"virtual_hosts": hosts, "request_headers_to_add": [header], "request_headers_to_remove": remove},
        http_filters=[{"name": "envoy.filters.http.router", "typed_config": router}],
        generate_request_id=False,
        **more,
    )
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def envoy_listener(name, port, manager, tls=None):
    chain = {"filters": [manager], **({"transport_socket": tls} if tls else {})}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": name, "address": address, "filter_chains": [chain]}


def envoy_config(ports, world):
    inner = {"name": "inner", "internal_listener": {}, "filter_chains": []}
    tunnels = [(f"localhost:{world.https}", "https"), (f"localhost:{world.h2}", "auto"), (f"localhost:{world.bulk_https}", "bulk_https")]
    inner["filter_chains"] = [{"filters": [envoy_manager("inner", tunnels)], "transport_socket": envoy_tls_down(world)}]
    forward = [(f"localhost:{world.http}", "plain"), (f"localhost:{world.bulk_http}", "bulk")]
    forward += [(host, "intercept") for host, _ in tunnels]
    forwarding = envoy_manager("forward", forward, http_protocol_options={"allow_absolute_url": True})
    listeners = [
        envoy_listener("plain", ports["plain"], envoy_manager("plain", [("*", "plain")])),
        envoy_listener("https", ports["https"], envoy_manager("https", [("*", "https")])),
        envoy_listener("h2", ports["h2"], envoy_manager("h2", [("*", "plain")]), envoy_tls_down(world)),
        envoy_listener("bulk", ports["bulk"], envoy_manager("bulk", [("*", "bulk")])),
        envoy_listener("forward", ports["forward"], forwarding),
        inner,
    ]
    intercept = envoy_cluster("intercept", 1)
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "inner"}}}}
    intercept["load_assignment"]["endpoints"] = [{"lb_endpoints": [endpoint]}]
    raw = typed("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    internal = typed(
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        transport_socket={"name": "envoy.transport_sockets.raw_buffer", "typed_config": raw},
    )
    intercept["transport_socket"] = {"name": "envoy.transport_sockets.internal_upstream", "typed_config": internal}
    clusters = [
        envoy_cluster("plain", world.http),
        envoy_cluster("https", world.https, world),
        envoy_cluster("auto", world.h2, world, {"auto_config": {}}),
        envoy_cluster("bulk", world.bulk_http),
        envoy_cluster("bulk_https", world.bulk_https, world),
        intercept,
    ]
    extension = typed("envoy.extensions.bootstrap.internal_listener.v3.InternalListener")
    return {
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": extension}],
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {"overload.global_downstream_max_connections": 50000}}]},
    }


PEERS = [Cupbearer, Nginx, Haproxy, Pingora, Envoy, Hudsucker, HudsuckerCurrentThread, Squid, Mitmproxy]


def proxy_authorization():
    return "Basic " + base64.b64encode(f"compare:{AGENT_KEY}".encode()).decode()
