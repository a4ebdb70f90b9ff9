# Grants in which a human logs in, in a scripted browser. Sourced: the credentials, then their checks.

login_credentials() {
  interactive code authorization_code "" 'authorize_params = { prompt = "consent" }'
  interactive device device_code
  interactive bound-code authorization_code 'dpop = "required"' 'authorize_params = { prompt = "consent" }'
}

interactive() { # NAME GRANT MORE…
  of "$1" <<TOML
grant = "$2"
authorization_server = "main"
client_id = "$1"
${3:-}
${4:-}
resource = "$(api_of "$1")"
scopes = ["openid", "offline_access", "orders:read"]
TOML
}

# The human's browser, as $BROWSER names it.
browser() { # NAME ARGUMENTS…
  local program=$RUN/bin/$1
  mkdir -p "$RUN/bin"
  printf '#!/bin/sh\nexec node %q %q alice %s "$@" >>%q 2>&1\n' "$RUN/peers/browser.mjs" "$CA" "${*:2}" "$RUN/checks/$1" >"$program"
  chmod 755 "$program"
  printf '%s' "$program"
}

log_in() { # NAME ARGUMENTS…
  outputs "login-$1"
  BROWSER=$BROWSER timeout 60 "$CUPBEARER_BIN" login "$@" --config "$OAUTH_CONFIG" >"$STDOUT" 2>"$STDERR" </dev/null || STATUS=$?
}

# log_in, on another device: the human types what the terminal shows into any browser.
log_in_elsewhere() { # NAME ARGUMENTS…
  local program url
  outputs "login-$1"
  : >"$STDERR"
  timeout 60 "$CUPBEARER_BIN" login "$@" --config "$OAUTH_CONFIG" >"$STDOUT" 2>"$STDERR" </dev/null &
  program=$!
  # A human is slower than the first poll.
  wait_for 30 "a code" grep -q 'user_code=' "$STDERR" || true
  wait_for 30 "a poll" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token_error error=authorization_pending >/dev/null || true
  url=$(grep -o 'https://[^ ]*user_code=[^ ]*' "$STDERR" | head -n 1)
  "$BROWSER" "$url" || true
  wait "$program" || STATUS=$?
}

login_checks() {
  local BROWSER
  BROWSER=$(browser browser)
  needs_a_login
  by_browser
  id_jag
  by_device
  forged_answer
  bound_login
}

needs_a_login() {
  check "a request for which nobody has logged in: 403 login_required, nothing sent"
  ask code /v1/orders
  expect "status" contains "$STDOUT" "status 403"
  expect "code" contains "$STDOUT" '"code":"login_required"'
  expect "what to do" contains "$STDOUT" 'cupbearer login code'
  expect "the API" judge silent "$RS_JOURNAL" "$RS_BEFORE"
  done_check
}

by_browser() {
  check "cupbearer login: authorization code with PKCE, in a browser; the running proxy knows of it"
  log_in code
  expect "exit status" status_is 0
  expect "stdout" contains "$STDOUT" "code: logged in"
  expect "PKCE" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=authorized client=code pkce=S256
  expect "the code" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token client=code grant=authorization_code method=none pkce=True
  ask code /v1/orders
  served_by code client=code sub=alice scope=orders:read
  done_check
}

id_jag() {
  check "ID-JAG: the login's ID token, exchanged at one issuer, used at the API's"
  ask id-jag /v1/orders
  served_by id-jag client=resource-app sub=alice "iss=$AS_URL/resource-as"
  expect "the first step" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token "issuer=$AS_URL" client=code type=N_A
  expect "the second step" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token "issuer=$AS_URL/resource-as" client=resource-app
  done_check
}

by_device() {
  check "cupbearer login of a device_code credential, approved on another device"
  log_in_elsewhere device
  expect "exit status" status_is 0
  expect "the code" contains "$STDERR" "$AS_URL/device"
  expect "polled before" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token_error client=device error=authorization_pending
  expect "the token" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token client=device grant=urn:ietf:params:oauth:grant-type:device_code
  ask device /v1/orders
  served_by device client=device sub=alice
  done_check

  check "cupbearer login --device for an authorization_code credential: a new login in place of the old"
  log_in_elsewhere code --device
  expect "exit status" status_is 0
  expect "the token" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token client=code grant=urn:ietf:params:oauth:grant-type:device_code
  ask code /v1/orders
  served_by code client=code sub=alice
  done_check
}

# RFC 9207: the server names itself in its answer, and whoever answers in its place is found out.
forged_answer() {
  local BROWSER before
  BROWSER=$(browser forger --forge iss=https://attacker.example)
  before=$(issued code refresh_token)
  check "cupbearer login: an answer with another issuer's name is refused, and the login that was there stays"
  log_in code
  expect "exit status" status_is 1
  expect "token requests" equals "$(judge count "$AS_JOURNAL" "$AS_BEFORE" event=token)" 0
  refresh code
  expect "the former login" status_is 0
  expect "its token" is_active "$before" false # rotated a moment ago
  done_check
}

bound_login() {
  check "a login bound to a DPoP key (dpop_jkt), its refresh token with it"
  log_in bound-code
  expect "exit status" status_is 0
  expect "the key" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=authorized client=bound-code dpop=True
  ask bound-code /v1/orders
  served_by bound-code client=bound-code bound=key sub=alice
  refresh bound-code
  expect "a refresh" status_is 0
  done_check
}

# Last, for everything that needs the login comes before it.
logout_checks() {
  local token
  check "cupbearer logout: the server takes the refresh token back"
  token=$(issued code refresh_token)
  expect "before" is_active "$token" true
  operator logout logout code
  expect "exit status" status_is 0
  expect "stdout" contains "$STDOUT" "code: revoked and forgotten"
  expect "the server" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=revoked kind=refresh_token client=code
  expect "afterwards" is_active "$token" false
  ask code /v1/orders
  expect "a request" contains "$STDOUT" '"code":"login_required"'
  expect "the API" judge silent "$RS_JOURNAL" "$RS_BEFORE"
  done_check
}
