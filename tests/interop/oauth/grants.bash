# Every grant that needs no browser. Sourced: the credentials, then their checks.

AT=urn:ietf:params:oauth:token-type:access_token
ID_JAG=urn:ietf:params:oauth:token-type:id-jag

grant_credentials() {
  of seeded <<TOML
grant = "refresh_token"
authorization_server = "main"
client_id = "seeded"
refresh_token = $(file refresh.token)
resource = "$(api_of seeded)"
TOML
  exchange_credentials
  of service <<TOML
grant = "jwt_bearer"
authorization_server = "main"
client_id = "service"
assertion = { jwt = { key = $(file service.key), iss = "service@$DOMAIN", sub = "batch" } }
resource = "$(api_of service)"
scopes = ["orders:read"]
TOML
  id_jag_credential
  of saml <<TOML
grant = "saml2_bearer"
authorization_server = "main"
client_id = "saml"
client_auth = { method = "client_secret_post", secret = $(secret saml) }
assertion = { file = "$GRANTS/assertion.xml" }
resource = "$(api_of saml)"
scopes = ["orders:read"]
TOML
  ciba_credential approved alice
  ciba_credential denied mallory
  of dpop <<TOML
grant = "client_credentials"
authorization_server = "main"
client_id = "dpop"
client_auth = { method = "client_secret_basic", secret = $(secret dpop) }
dpop = "required"
resource = "$(api_of dpop)"
scopes = ["orders:read"]
TOML
  of rar <<TOML
grant = "client_credentials"
authorization_server = "main"
client_id = "rar"
client_auth = { method = "client_secret_basic", secret = $(secret rar) }
params = { authorization_details = '[{"type":"orders","actions":["read"],"locations":["$(api_of rar)"]}]' }
resource = "$(api_of rar)"
scopes = ["orders:read"]
TOML
}

# A token for one API becomes one for another: of a credential, with an actor; and of the agent.
exchange_credentials() {
  cat <<TOML
[credentials.subject]
grant = "client_credentials"
authorization_server = "main"
client_id = "exchanger"
client_auth = { method = "client_secret_post", secret = $(secret exchanger) }
resource = "$(api_of subject)"
scopes = ["orders:read"]

TOML
  exchanger exchange "{ credential = \"subject\" }" "actor = { file = \"$KEYS/actor.jwt\", type = \"urn:ietf:params:oauth:token-type:jwt\" }"
  exchanger on-behalf "{ agent = true }"
}

exchanger() { # NAME SUBJECT MORE
  of "$1" <<TOML
grant = "token_exchange"
authorization_server = "main"
client_id = "exchanger"
client_auth = { method = "client_secret_post", secret = $(secret exchanger) }
subject = $2
${3:-}
requested_token_type = "$AT"
resource = "$(api_of "$1")"
scopes = ["orders:read"]
TOML
}

# The ID token of a login becomes an ID-JAG at its own issuer, and that a token at the API's.
id_jag_credential() {
  of id-jag <<TOML

[[credentials.id-jag.steps]]
grant = "token_exchange"
authorization_server = "main"
client_id = "code"
subject = { credential = "code", token = "id_token" }
requested_token_type = "$ID_JAG"
audience = "$AS_URL/resource-as"
resource = "$(api_of id-jag)"
scopes = ["orders:read"]

[[credentials.id-jag.steps]]
grant = "jwt_bearer"
authorization_server = "resource-as"
client_id = "resource-app"
client_auth = { method = "client_secret_basic", secret = $(secret resource-app) }
assertion = { previous = true }
resource = "$(api_of id-jag)"
scopes = ["orders:read"]
TOML
}

ciba_credential() { # NAME ACCOUNT
  of "$1" <<TOML
grant = "ciba"
authorization_server = "main"
client_id = "ciba"
client_auth = { method = "client_secret_basic", secret = $(secret ciba) }
login_hint = "$2"
binding_message = "Orders for $2"
resource = "$(api_of "$1")"
scopes = ["openid", "orders:read"]
TOML
}

# What the credentials' files hold before cupbearer starts.
grant_files() {
  (umask 077 && peer -X POST "$AS_URL/test/refresh-token?client=seeded&resource=$(api_of seeded)&scope=orders:read" >"$KEYS/refresh.token")
  (umask 077 && node "$RUN/peers/sign.mjs" "$KEYS/actor.key" interop robot "$AS_URL" >"$KEYS/actor.jwt")
  cat "$KEYS/actor.jwt" >>"$SECRETS"
  # A file's last line break is dropped, and so it has none.
  printf '%s' "$(saml_assertion)" >"$GRANTS/assertion.xml"
  chmod 600 "$GRANTS/assertion.xml"
}

saml_assertion() {
  cat <<XML
<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_$(openssl rand -hex 16)" Version="2.0">
  <saml:Issuer>https://idp.$DOMAIN/</saml:Issuer>
  <saml:Subject>
    <saml:NameID>bob</saml:NameID>
    <saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">
      <saml:SubjectConfirmationData Recipient="$AS_URL/token" NotOnOrAfter="$(date -u -d '+10 minutes' +%Y-%m-%dT%H:%M:%SZ)"/>
    </saml:SubjectConfirmation>
  </saml:Subject>
  <saml:Conditions>
    <saml:AudienceRestriction><saml:Audience>$AS_URL</saml:Audience></saml:AudienceRestriction>
  </saml:Conditions>
</saml:Assertion>
XML
}

grant_checks() {
  rotation
  exchanges

  check "jwt-bearer (RFC 7523), the assertion made and signed here"
  ask service /v1/orders
  served_by service client=service sub=batch
  given client=service grant=urn:ietf:params:oauth:grant-type:jwt-bearer
  done_check

  check "saml2-bearer (RFC 7522), the assertion as base64url without padding"
  ask saml /v1/orders
  served_by saml client=saml sub=bob
  given client=saml grant=urn:ietf:params:oauth:grant-type:saml2-bearer
  done_check

  human_approval
  proofs

  check "authorization_details (RFC 9396) as a parameter: the token says what it allows"
  ask rar /v1/orders
  served_by rar client=rar details=1
  given client=rar
  done_check
}

rotation() {
  local round
  check "refresh_token of a public client, the first one from a file, a new one each time"
  ask seeded /v1/orders
  served_by seeded client=seeded sub=alice scope=orders:read
  given client=seeded method=none grant=refresh_token rotations=1
  # The server revokes the whole family if one of them is used twice.
  for round in 2 3; do
    refresh seeded
    expect "another token" status_is 0
    given client=seeded "rotations=$round"
  done
  ask seeded /v1/orders
  served_by seeded client=seeded
  asked_times 0
  done_check
}

exchanges() {
  local whose
  check "token exchange (RFC 8693) of another credential's token, with an actor"
  ask exchange /v1/orders
  served_by exchange client=exchanger sub=exchanger act=robot
  expect "the exchange" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token grant=urn:ietf:params:oauth:grant-type:token-exchange
  expect "its subject" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token grant=client_credentials "resource=$(api_of subject)"
  asked_times 2
  done_check

  check "token exchange of the agent's own token: a token for each, and the agent's goes no further"
  for whose in post exchanger; do
    ask on-behalf /v1/orders -H "Authorization: Bearer $(token_of "$whose")"
    served_by on-behalf client=exchanger "sub=$whose"
    given client=exchanger grant=urn:ietf:params:oauth:grant-type:token-exchange
  done
  ask on-behalf /v1/orders
  expect "without a token of its own" contains "$STDOUT" "status 400"
  expect "what to do" contains "$STDOUT" "send a token of your own"
  expect "the API" judge silent "$RS_JOURNAL" "$RS_BEFORE"
  done_check
}

# A token that an agent has got for itself.
token_of() { # CLIENT
  peer "$AS_URL/token" -d "client_id=$1" --data-urlencode "client_secret=$(cat "$KEYS/$1.secret")" \
    -d grant_type=client_credentials -d "resource=$(api_of inbound)" -d scope=orders:read |
    "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'
}

human_approval() {
  check "CIBA, approved on another device: the request waits for it"
  ask approved /v1/orders
  served_by approved client=ciba sub=alice
  expect "the device" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=asked account=alice "message=Orders for alice"
  expect "polled before" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token_error error=authorization_pending
  expect "the token" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token grant=urn:openid:params:grant-type:ciba
  done_check

  check "CIBA, denied: 403 approval_denied, nothing sent"
  ask denied /v1/orders
  expect "status" contains "$STDOUT" "status 403"
  expect "code" contains "$STDOUT" '"code":"approval_denied"'
  expect "the device" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=asked account=mallory
  expect "the API" judge silent "$RS_JOURNAL" "$RS_BEFORE"
  done_check
}

proofs() {
  check "DPoP, required: nonces from both servers, the API's new with each answer"
  ask dpop /v1/orders
  served_by dpop client=dpop bound=key
  expect "a nonce is asked for" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token_error client=dpop error=use_dpop_nonce
  expect "a token" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token client=dpop type=DPoP
  asked_times 2
  expect "the API asked for one" equals "$(judge count "$RS_JOURNAL" "$RS_BEFORE" status=401)" 1
  ask dpop /v1/orders -X POST -d '{"item":"cup"}'
  expect "status" contains "$STDOUT" "status 403" # orders:write: its proof was good
  ask dpop /v1/orders
  served_by dpop bound=key
  expect "requests" equals "$(judge count "$RS_JOURNAL" "$RS_BEFORE")" 1
  asked_times 0
  done_check
}
