// The clients that the authorization server of the grants knows: one for each way to
// authenticate and one for each grant, so that the journal says which of them it was.

import { createPublicKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { CIBA, DEVICE_CODE, JWT_BEARER, SAML2_BEARER, TOKEN_EXCHANGE } from './custom_grants.mjs';

/** What has no browser in it. */
function machine(id, method, more = {}) {
  return {
    client_id: id,
    token_endpoint_auth_method: method,
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
    id_token_signed_response_alg: 'ES256',
    ...more,
  };
}

/** A program on a human's machine: public, and any port of 127.0.0.1 will do (RFC 8252, section 7.3). */
function native(id, credential, more = {}) {
  return {
    client_id: id,
    token_endpoint_auth_method: 'none',
    application_type: 'native',
    grant_types: ['authorization_code', 'refresh_token', DEVICE_CODE],
    response_types: ['code'],
    redirect_uris: [`http://127.0.0.1/cb/${credential}`],
    id_token_signed_response_alg: 'ES256',
    ...more,
  };
}

/** What the issuer with everything knows; `keys` is the directory of the clients' keys. */
export function clients(secrets, keys) {
  const read = (file) => readFileSync(`${keys}/${file}`);
  const jwks = (file) => ({ keys: [createPublicKey(read(file)).export({ format: 'jwk' })] });
  const signing = (alg, file) =>
    ['issuer', 'token-endpoint'].map((audience) =>
      machine(`${alg.toLowerCase()}-${audience}`, 'private_key_jwt', {
        token_endpoint_auth_signing_alg: alg,
        jwks: jwks(file),
      }),
    );
  const certificate = new X509Certificate(read('self-signed.pem'));
  const selfSigned = { ...jwks('self-signed.key').keys[0], x5c: [certificate.raw.toString('base64')] };
  return [
    machine('client:basic +%', 'client_secret_basic', { client_secret: secrets.basic }),
    machine('post', 'client_secret_post', { client_secret: secrets.post }),
    machine('secret-jwt', 'client_secret_jwt', { client_secret: secrets['secret-jwt'] }),
    machine('next-secret', 'client_secret_basic', { client_secret: secrets['next-secret'] }),
    machine('assertion-file', 'private_key_jwt', { jwks: jwks('assertion.key') }),
    ...signing('ES256', 'es256.key'),
    ...signing('RS256', 'rsa.key'),
    ...signing('PS256', 'rsa.key'),
    ...signing('EdDSA', 'ed25519.key'),
    machine('tls-pki', 'tls_client_auth', {
      tls_client_auth_san_dns: 'client.interop.example',
      tls_client_certificate_bound_access_tokens: true,
    }),
    machine('tls-self-signed', 'self_signed_tls_client_auth', {
      jwks: { keys: [selfSigned] },
      tls_client_certificate_bound_access_tokens: true,
    }),
    machine('seeded', 'none', { grant_types: ['refresh_token'] }),
    native('code', 'code', { grant_types: ['authorization_code', 'refresh_token', DEVICE_CODE, TOKEN_EXCHANGE] }),
    native('device', 'device'),
    native('bound-code', 'bound-code', { dpop_bound_access_tokens: true }),
    machine('exchanger', 'client_secret_post', {
      client_secret: secrets.exchanger,
      grant_types: ['client_credentials', TOKEN_EXCHANGE],
    }),
    // Its assertion says who asks; the client itself is public.
    machine('service', 'none', { grant_types: [JWT_BEARER] }),
    machine('saml', 'client_secret_post', { client_secret: secrets.saml, grant_types: [SAML2_BEARER] }),
    machine('ciba', 'client_secret_basic', {
      client_secret: secrets.ciba,
      grant_types: [CIBA],
      backchannel_token_delivery_mode: 'poll',
    }),
    machine('dpop', 'client_secret_basic', { client_secret: secrets.dpop, dpop_bound_access_tokens: true }),
    machine('rar', 'client_secret_basic', { client_secret: secrets.rar, authorization_details_types: ['orders'] }),
    machine('scoped', 'client_secret_basic', { client_secret: secrets.scoped }),
    machine('run', 'client_secret_basic', { client_secret: secrets.run }),
    machine('keyring', 'client_secret_basic', { client_secret: secrets.keyring }),
    // The protected API's own, to ask about tokens that say nothing by themselves.
    machine('introspector', 'client_secret_basic', { client_secret: secrets.introspector }),
  ];
}

/** What the issuer that takes ID-JAGs knows. */
export function resourceClients(secrets) {
  const { 'resource-app': secret } = secrets;
  return [machine('resource-app', 'client_secret_basic', { client_secret: secret, grant_types: [JWT_BEARER] })];
}
