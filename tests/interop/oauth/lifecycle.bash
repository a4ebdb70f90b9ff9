# What becomes of tokens: scopes by route, step-up, a restart, the end of a run; and the keyring.
# Sourced: the credentials, then their checks.

lifecycle_credentials() {
  of_scoped
  machine run run "{ method = \"client_secret_basic\", secret = $(secret run) }"
  machine run-jwt run "{ method = \"client_secret_basic\", secret = $(secret run) }"
  machine keyring keyring '{ method = "client_secret_basic", secret = { keyring = "cupbearer-interop/keyring" } }'
}

# One credential; what is asked for depends on the route.
of_scoped() {
  cat <<TOML
[credentials.scoped]
grant = "client_credentials"
authorization_server = "main"
client_id = "scoped"
client_auth = { method = "client_secret_basic", secret = $(secret scoped) }
resource = "$(api_of scoped)"
scopes = ["orders:read"]
hosts = ["scoped.$DOMAIN:$RS_PORT"]

TOML
  route scoped scoped-read 'methods = ["GET"]
max_scopes = ["orders:admin"]'
  route scoped scoped-write 'methods = ["POST"]
scopes = ["orders:write"]'
}

lifecycle_checks() {
  scopes_by_route
  step_up
  end_of_run
  from_the_keyring
  restart
}

scopes_by_route() {
  check "a GET and a POST route of one credential have tokens with different scopes"
  ask scoped /v1/orders
  served_by scoped method=GET scope=orders:read
  given client=scoped asked=orders:read
  ask scoped /v1/orders -X POST -d '{"item":"cup"}'
  served_by scoped method=POST scope=orders:write
  given client=scoped asked=orders:write
  ask scoped /v1/orders
  served_by scoped scope=orders:read
  asked_times 0
  done_check
}

step_up() {
  check "insufficient_scope: more scope is asked for, within max_scopes"
  ask scoped /v1/admin
  served_by scoped path=/v1/admin "scope=orders:read orders:admin"
  expect "the challenge" judge recorded "$RS_JOURNAL" "$RS_BEFORE" path=/v1/admin status=403 scope=orders:read
  given client=scoped "asked=orders:read orders:admin"
  done_check

  check "insufficient_scope beyond max_scopes: no token request, the API's own answer"
  ask scoped /v1/owner
  expect "status" contains "$STDOUT" "status 403"
  expect "body" contains "$STDOUT" "without orders:owner"
  expect "requests" equals "$(judge count "$RS_JOURNAL" "$RS_BEFORE")" 1
  asked_times 0
  done_check
}

# run_for NAME COMMAND…: `cupbearer run` asks NAME's API; COMMAND comes before it.
run_for() {
  outputs "run-$1"
  # That variable is another config's secret: nobody told this one to hide it.
  timeout 60 env -u INTEROP_BASIC_SECRET "${@:2}" "$CUPBEARER_BIN" run --config "$OAUTH_CONFIG" -- "$HERE/clients/recorded" "$ENVIRONMENT" \
    curl -sS --fail -w '\nstatus %{http_code}\n' "https://$1.$DOMAIN:$RS_PORT/v1/orders" >"$STDOUT" 2>"$STDERR" </dev/null || STATUS=$?
  expect "exit status" status_is 0
}

end_of_run() {
  local token
  check "the end of cupbearer run: the server takes the access token back"
  run_for run
  served_by run client=run
  given client=run
  expect "the server" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=revoked kind=client_credentials client=run
  token=$(issued run access_token)
  expect "afterwards" is_active "$token" false
  expect "the API" equals "$(peer -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" "https://run.$DOMAIN:$RS_PORT/v1/orders")" 401
  done_check

  check "the end of cupbearer run: a server that can't take a JWT back is no trouble"
  run_for run-jwt
  served_by run-jwt client=run
  expect "the server" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=revocation_error client=run error=unsupported_token_type
  expect "the output" lacks "$STDERR" revoke
  done_check
}

from_the_keyring() {
  check "a secret from the keyring, where secret-tool has put it"
  mkdir -m 700 "$GRANTS/runtime"
  run_for keyring env -u DBUS_SESSION_BUS_ADDRESS XDG_RUNTIME_DIR="$GRANTS/runtime" \
    dbus-run-session -- "$HERE/clients/with_keyring" "$KEYS/keyring.secret" cupbearer-interop keyring
  served_by keyring client=keyring
  given client=keyring method=client_secret_basic
  done_check
}

restart() {
  local name names=(basic es256-issuer seeded exchange service saml approved dpop rar scoped code device bound-code tls-pki) good=0
  check "serve ends with 0 on SIGTERM, and starts again"
  STATUS=0 STDERR=$RUN/grants.err
  expect "its end" stop_oauth_proxy
  wait "$SERVE" || STATUS=$?
  expect "exit status" status_is 0
  start_oauth_proxy grants-again
  done_check

  check "after the restart: no token request for what is still good"
  local before
  before=$(lines "$AS_JOURNAL")
  for name in "${names[@]}"; do
    ask "$name" /v1/orders
    served_by "$name"
    ! grep -q '^status 200' "$STDOUT" || good=$((good + 1))
  done
  AS_BEFORE=$before
  asked_times 0
  done_check "$good credentials"

  check "after the restart: the logins are still there"
  for name in seeded code device bound-code; do
    refresh "$name"
    expect "$name" status_is 0
    expect "$name" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token "client=$name" grant=refresh_token
  done
  done_check
}
