# The world of the grants: keys and certificates, an authorization server with everything, a
# protected API, one `cupbearer serve` for all, and what a check of it is made of. Sourced.

DOMAIN=interop.example
AS=auth.$DOMAIN              # the authorization server …
MTLS=auth-mtls.$DOMAIN       # … and its listener that asks for client certificates
ASKED=0

# === Keys, certificates, secrets ===

oauth_world() {
  GRANTS=$RUN/grants
  KEYS=$GRANTS/keys
  AS_JOURNAL=$GRANTS/auth.jsonl RS_JOURNAL=$GRANTS/api.jsonl ISSUED=$GRANTS/issued.jsonl
  OAUTH_AUDIT=$GRANTS/state/audit.jsonl OAUTH_CONFIG=$GRANTS/proxy.toml AGENTS=$GRANTS/agents.secrets
  mkdir -p "$GRANTS"
  (umask 077 && mkdir -p "$KEYS" && : >"$ISSUED" && : >"$AGENTS")
  : >"$AS_JOURNAL"
  : >"$RS_JOURNAL"
  (umask 077 && make_keys)
  (umask 077 && make_client_certificates) 2>"$GRANTS/openssl.log" || { cat "$GRANTS/openssl.log" >&2; die "openssl made no client certificates"; }
  (umask 077 && make_client_secrets)
  # A line of a private key is as telling as a password.
  sed '/^-/d' "$KEYS"/*.key >>"$SECRETS"
  OAUTH_KEY="agent-$(openssl rand -hex 16)"
  printf '%s\n' "$OAUTH_KEY" >>"$AGENTS"
}

make_keys() {
  local name
  for name in es256 assertion actor service; do
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$KEYS/$name.key"
    openssl pkey -in "$KEYS/$name.key" -pubout -out "$KEYS/$name.pub"
  done
  openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$KEYS/rsa.key"
  openssl genpkey -algorithm ED25519 -out "$KEYS/ed25519.key"
  # One of them as a JWK.
  node -e 'const [file] = process.argv.slice(1); const key = require("node:crypto").createPrivateKey(require("node:fs").readFileSync(file));
    console.log(JSON.stringify(key.export({ format: "jwk" })))' "$KEYS/ed25519.key" >"$KEYS/ed25519.jwk"
}

make_client_certificates() {
  local subject="/CN=Interop client"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj "/CN=Interop client authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$KEYS/client-ca.key" -out "$KEYS/client-ca.pem"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj "$subject" -keyout "$KEYS/pki.key" -out "$KEYS/pki.csr"
  printf '%s\n' "subjectAltName=DNS:client.$DOMAIN" "extendedKeyUsage=clientAuth" "basicConstraints=critical,CA:FALSE" >"$KEYS/pki.ext"
  openssl x509 -req -in "$KEYS/pki.csr" -CA "$KEYS/client-ca.pem" -CAkey "$KEYS/client-ca.key" -CAcreateserial -days 2 \
    -extfile "$KEYS/pki.ext" -out "$KEYS/pki.pem"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj "$subject" \
    -keyout "$KEYS/self-signed.key" -out "$KEYS/self-signed.pem"
}

make_client_secrets() {
  local name
  for name in basic post secret-jwt next-secret exchanger saml ciba dpop rar scoped run keyring introspector resource-app; do
    # Characters that a form encodes, and enough of them for HS256.
    printf '%s +/%%:&="~%s' "$name" "$(openssl rand -hex 24)" >"$KEYS/$name.secret"
    cat "$KEYS/$name.secret" <(echo) >>"$SECRETS"
  done
  printf 'wrong-%s' "$(openssl rand -hex 16)" >"$KEYS/wrong.secret"
  cat "$KEYS/wrong.secret" <(echo) >>"$SECRETS"
}

# SOURCE of a client's secret, as the config has it.
secret() { printf '{ file = "%s" }' "$KEYS/$1.secret"; }
file() { printf '{ file = "%s" }' "$KEYS/$1"; }

# === The peers ===

oauth_peers() {
  local common client_secrets
  common="\"certificate\": \"$RUN/tls/server.pem\", \"key\": \"$RUN/tls/server.key\", \"secretsFile\": \"$SECRETS\""
  client_secrets=$("$PYTHON" -c 'import json, pathlib, sys
print(json.dumps({path.stem: path.read_text() for path in pathlib.Path(sys.argv[1]).glob("*.secret")}))' "$KEYS")
  cat >"$GRANTS/auth.json" <<JSON
{ $common, "journalFile": "$AS_JOURNAL", "issuedFile": "$ISSUED", "name": "$AS", "mtlsName": "$MTLS",
  "clientAuthority": "$KEYS/client-ca.pem", "keys": "$KEYS", "samlFile": "$GRANTS/assertion.xml",
  "opaque": ["run.$DOMAIN"], "secrets": $client_secrets }
JSON
  start_peer grants-auth grants.mjs "$GRANTS/auth.json"
  AS_PORT=$PORT
  AS_URL=https://$AS:$AS_PORT
  cat >"$GRANTS/api.json" <<JSON
{ $common, "journalFile": "$RS_JOURNAL", "authority": "$CA", "issuer": "$AS_URL", "secret": $("$PYTHON" -c 'import json, sys
print(json.dumps(open(sys.argv[1]).read()))' "$KEYS/introspector.secret"),
  "issuers": { "id-jag.$DOMAIN": "$AS_URL/resource-as" }, "opaque": ["run.$DOMAIN"], "detailed": ["rar.$DOMAIN"],
  "bound": { "tls-pki.$DOMAIN": "certificate", "tls-self-signed.$DOMAIN": "certificate", "dpop.$DOMAIN": "key", "bound-code.$DOMAIN": "key" },
  "nonces": ["dpop.$DOMAIN"] }
JSON
  start_peer grants-api resource.mjs "$GRANTS/api.json"
  RS_PORT=$PORT
}

# curl without cupbearer: to try the peers, and to ask the authorization server how things stand.
peer() {
  curl --silent --show-error --max-time 30 --noproxy '*' --cacert "$CA" \
    --connect-to "::127.0.0.1:" "$@"
}

# The last token of a KIND that the server gave CLIENT. Never printed by a check.
issued() { # CLIENT KIND
  "$PYTHON" -c 'import json, sys
found = [each["token"] for each in map(json.loads, open(sys.argv[1])) if (each["client"], each["kind"]) == tuple(sys.argv[2:])]
print(found[-1])' "$ISSUED" "$@"
}

# Whether the server says that a token is good (RFC 7662).
is_active() { # TOKEN true|false
  peer -u "introspector:$(form_encoded "$(cat "$KEYS/introspector.secret")")" --data-urlencode "token=$1" \
    "$AS_URL/token/introspection" | grep -q "\"active\":$2"
}

# === cupbearer's config ===

# of NAME [ROUTE-TOML] <BODY: a credential, its host and its route.
of() {
  printf '[credentials.%s]\nhosts = ["%s.%s:%s"]\n' "$1" "$1" "$DOMAIN" "$RS_PORT"
  cat
  printf '\n'
  route "$1" "$1" "${2:-}"
}

# route CREDENTIAL NAME MORE-TOML
route() {
  cat <<TOML
[[routes]]
name = "$2"
hosts = ["$1.$DOMAIN:$RS_PORT"]
agents = ["interop"]
credential = "$1"
upstream_ca = "$CA"
danger_allow_private_addresses = ["127.0.0.0/8"]
$3

TOML
}

# A resource as a token request names it.
api_of() { printf 'https://%s.%s/' "$1" "$DOMAIN"; }

write_oauth_config() {
  local ports
  # Where `cupbearer token` and the clients find it again after a restart.
  mapfile -t ports < <("$PYTHON" -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for each in held: print(each.getsockname()[1])')
  {
    cat <<TOML
[proxy]
listen = "127.0.0.1:${ports[0]}"

[admin]
listen = "127.0.0.1:${ports[1]}"

[state]
directory = "$GRANTS/state"

[authorization_servers.main]
issuer = "$AS_URL"
ca = "$CA"

[authorization_servers.resource-as]
issuer = "$AS_URL/resource-as"
ca = "$CA"

[agents.interop]
key_sha256 = "$(printf '%s' "$OAUTH_KEY" | sha256sum | cut -d' ' -f1)"

TOML
    client_auth_credentials
    grant_credentials
    login_credentials
    lifecycle_credentials
  } >"$OAUTH_CONFIG"
  {
    printf '[resolve]\n"%s" = "127.0.0.1"\n"%s" = "127.0.0.1"\n' "$AS" "$MTLS"
    sed -nE 's/^hosts = \["([^":]+):.*/"\1" = "127.0.0.1"/p' "$OAUTH_CONFIG" | sort -u
  } >"$OAUTH_CONFIG.resolve"
  cat "$OAUTH_CONFIG.resolve" >>"$OAUTH_CONFIG"
}

# === cupbearer ===

start_oauth_proxy() { # NAME
  start "$1" "$CUPBEARER_BIN" serve --log json --config "$OAUTH_CONFIG"
  SERVE=$PID
  wait_for 30 "cupbearer serve" listening "$RUN/$1.err" "$PID" || true
  judge listener "$RUN/$1.err" proxy >/dev/null || { tail -n 20 "$RUN/$1.err" >&2; die "cupbearer serve did not start"; }
  # What an operator gives an agent: the way to the proxy, and nothing else.
  AGENT_ENVIRONMENT=$(CUPBEARER_AGENT_KEY=$OAUTH_KEY "$CUPBEARER_BIN" env --config "$OAUTH_CONFIG")
}

listening() { gone "$2" || judge listener "$1" proxy >/dev/null 2>&1; }

stop_oauth_proxy() {
  kill -TERM "$SERVE"
  wait_for 15 "the end of cupbearer serve" gone "$SERVE"
}

# Where a check's outputs go: all of them are searched for secrets at the end.
outputs() { # NAME
  local there
  ASKED=$((ASKED + 1))
  there=$RUN/checks/oauth-$ASKED-$1
  mkdir -p "$there"
  STDOUT=$there/stdout STDERR=$there/stderr ENVIRONMENT=$there/environment STATUS=0
  RS_BEFORE=$(lines "$RS_JOURNAL") AS_BEFORE=$(lines "$AS_JOURNAL") RECORDS_BEFORE=$(lines "$OAUTH_AUDIT")
}

# ask NAME PATH CURL-ARGUMENTS…: an agent asks NAME's API.
ask() {
  local name=$1 path=$2
  shift 2
  outputs "$name"
  # shellcheck disable=SC2016 # the agent's own shell expands it
  env -i PATH="$PATH" HOME="$HOME" bash -c 'eval "$1"; shift; exec "$@"' agent "$AGENT_ENVIRONMENT" \
    "$HERE/clients/recorded" "$ENVIRONMENT" curl -sS --max-time 60 -w '\nstatus %{http_code}\n' "$@" \
    "https://$name.$DOMAIN:$RS_PORT$path" >"$STDOUT" 2>"$STDERR" </dev/null || STATUS=$?
  # A record ends when the last byte has passed: the client may be a moment ahead of it.
  wait_for 5 "a record" more_lines "$OAUTH_AUDIT" "$RECORDS_BEFORE" || true
}

# An operator's command.
operator() { # NAME COMMAND…
  outputs "$1"
  timeout 60 "$CUPBEARER_BIN" "${@:2}" --config "$OAUTH_CONFIG" >"$STDOUT" 2>"$STDERR" </dev/null || STATUS=$?
}

refresh() { operator "refresh-$1" token refresh "$1"; }

# === What has to have happened ===

# served_by NAME KEY=VALUE…: NAME's API has answered, and the token was good, for it, and like this.
served_by() {
  expect "status" contains "$STDOUT" "status 200"
  expect "the API" judge arrived "$RS_JOURNAL" "$RS_BEFORE" "host=$1.$DOMAIN" "aud=$(api_of "$1")" status=200 "${@:2}"
  expect "the audit log" judge recorded "$OAUTH_AUDIT" "$RECORDS_BEFORE" agent=interop "host=$1.$DOMAIN" decision=allow status=200 error=None
}

# given KEY=VALUE…: the authorization server gave one token, for one request, like this.
given() {
  expect "the authorization server" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token "$@"
  asked_times 1
}

# How many token requests there were, good and bad.
asked_times() {
  local good bad
  good=$(judge count "$AS_JOURNAL" "$AS_BEFORE" event=token) bad=$(judge count "$AS_JOURNAL" "$AS_BEFORE" event=token_error)
  expect "token requests" equals "$((good + bad))" "$1"
}
