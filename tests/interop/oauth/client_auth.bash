# Every way for a client to say who it is. Sourced: the credentials, then their checks.

SIGNED=(ES256 RS256 PS256 EdDSA)

# client_credentials with `client_auth`.
machine() { # NAME CLIENT-ID CLIENT-AUTH
  of "$1" <<TOML
grant = "client_credentials"
authorization_server = "main"
client_id = "$2"
client_auth = $3
resource = "$(api_of "$1")"
scopes = ["orders:read"]
TOML
}

client_auth_credentials() {
  machine basic "client:basic +%" "{ method = \"client_secret_basic\", secret = $(secret basic) }"
  machine post post "{ method = \"client_secret_post\", secret = $(secret post) }"
  machine secret-jwt secret-jwt "{ method = \"client_secret_jwt\", secret = $(secret secret-jwt) }"
  local alg mode name
  for alg in "${SIGNED[@]}"; do
    for mode in issuer token_endpoint; do
      name=$(signed_name "$alg" "$mode")
      machine "$name" "$name" "{ method = \"private_key_jwt\", key = $(file "$(key_for "$alg")"), alg = \"$alg\", aud_mode = \"$mode\" }"
    done
  done
  machine tls-pki tls-pki "{ method = \"tls_client_auth\", certificate = \"$KEYS/pki.pem\", key = \"$KEYS/pki.key\" }"
  machine tls-self-signed tls-self-signed \
    "{ method = \"self_signed_tls_client_auth\", certificate = \"$KEYS/self-signed.pem\", key = \"$KEYS/self-signed.key\" }"
  machine assertion-file assertion-file "{ method = \"assertion\", assertion = $(file assertion.jwt) }"
  machine next-secret next-secret "{ method = \"client_secret_basic\", secret = $(secret wrong), next_secret = $(secret next-secret) }"
}

signed_name() { local name=${1,,}-$2; printf '%s' "${name//_/-}"; }

key_for() {
  case $1 in
    ES256) echo es256.key ;;
    RS256 | PS256) echo rsa.key ;;
    EdDSA) echo ed25519.jwk ;;
  esac
}

client_auth_checks() {
  check "client_secret_basic, with an id and a secret that have to be encoded"
  ask basic /v1/orders
  served_by basic "client=client:basic +%" scope=orders:read
  given "client=client:basic +%" method=client_secret_basic
  done_check

  check "client_secret_post"
  ask post /v1/orders
  served_by post client=post
  given client=post method=client_secret_post
  done_check

  check "client_secret_jwt"
  ask secret-jwt /v1/orders
  served_by secret-jwt client=secret-jwt
  given client=secret-jwt method=client_secret_jwt alg=HS256
  done_check

  local alg
  for alg in "${SIGNED[@]}"; do
    signed "$alg" issuer "$AS_URL"
    signed "$alg" token_endpoint "$AS_URL/token"
  done
  by_certificate tls-pki tls_client_auth
  by_certificate tls-self-signed self_signed_tls_client_auth
  stolen_token
  assertion_from_a_file
  second_secret
}

signed() { # ALG MODE AUDIENCE
  local name
  name=$(signed_name "$1" "$2")
  check "private_key_jwt with $1, aud = $2"
  ask "$name" /v1/orders
  served_by "$name" "client=$name"
  given "client=$name" method=private_key_jwt "alg=$1" "aud=$3"
  done_check
}

by_certificate() { # NAME METHOD
  check "$2, the token bound to the certificate (cnf.x5t#S256), which the API is shown"
  ask "$1" /v1/orders
  served_by "$1" "client=$1" bound=certificate
  given "client=$1" "method=$2" mutual=True
  done_check
}

# Otherwise the two checks before this one would show nothing.
stolen_token() {
  check "the API takes no bound token from somebody who doesn't have the certificate"
  outputs stolen
  expect "its answer" equals "$(peer -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $(issued tls-pki access_token)" \
    "https://tls-pki.$DOMAIN:$RS_PORT/v1/orders")" 401
  expect "why" judge recorded "$RS_JOURNAL" "$RS_BEFORE" "error=invalid_token no certificate was shown"
  done_check
}

# What somebody else puts into the file: good for five minutes, and for once.
write_assertion() {
  (umask 077 && node "$RUN/peers/sign.mjs" "$KEYS/assertion.key" assertion-file assertion-file "$AS_URL" >"$KEYS/assertion.new")
  cat "$KEYS/assertion.new" >>"$SECRETS"
  mv "$KEYS/assertion.new" "$KEYS/assertion.jwt"
}

assertion_from_a_file() {
  local before
  check "an assertion from a file, replaced while cupbearer runs"
  before=$(lines "$AS_JOURNAL")
  ask assertion-file /v1/orders
  served_by assertion-file client=assertion-file
  write_assertion
  refresh assertion-file
  expect "another token" status_is 0
  given client=assertion-file method=private_key_jwt
  expect "assertions" equals "$(judge distinct "$AS_JOURNAL" "$before" jti)" 2
  ask assertion-file /v1/orders
  served_by assertion-file client=assertion-file
  asked_times 0
  done_check
}

second_secret() {
  check "two secrets, the first one wrong: the other one is tried once, and remembered"
  ask next-secret /v1/orders
  served_by next-secret client=next-secret
  expect "the wrong one" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token_error client=next-secret error=invalid_client
  expect "the right one" judge recorded "$AS_JOURNAL" "$AS_BEFORE" event=token client=next-secret
  asked_times 2
  expect "the log" contains "$RUN/grants.err" "the server takes another secret of the client's now"
  refresh next-secret
  expect "another token" status_is 0
  given client=next-secret
  done_check
}
