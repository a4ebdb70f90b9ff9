// The authorization server of the grants: oidc-provider with everything it can do that a
// program can use, behind one HTTPS listener, and behind a second one that asks for client
// certificates (the mTLS aliases of RFC 8705, section 5).
//
//   https://NAME:PORT              the issuer with everything
//   https://NAME:PORT/resource-as  takes ID-JAGs of the other
//
//   POST /test/refresh-token?client=…&resource=…&scope=…  makes one, as if somebody had logged in

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

import { exportJWK, generateKeyPair, importSPKI } from 'jose';
import { Provider, errors } from 'oidc-provider';

import { clients, resourceClients } from './clients.mjs';
import { journal, listen, secrets, settings } from './common.mjs';
import { actors, addGrants } from './custom_grants.mjs';
import { observe } from './observe.mjs';

const { certificate, key, clientAuthority, name, mtlsName, keys, opaque, samlFile, ...rest } = settings();
const record = journal(rest.journalFile);
const remember = secrets(rest.secretsFile);
const issued = journal(rest.issuedFile);

const SCOPES = 'orders:read orders:write orders:admin orders:owner';

/** RFC 8707: what there is to know about an API. */
function resourceServer(resource) {
  const host = URL.parse(resource)?.hostname;
  if (!host?.endsWith('.interop.example')) throw new errors.InvalidTarget();
  const format = opaque.includes(host) ? { accessTokenFormat: 'opaque' } : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } };
  return { audience: resource, scope: SCOPES, accessTokenTTL: 600, ...format };
}

/** A human and a phone: alice approves a moment later, mallory doesn't. */
async function askOnPhone(ctx, request, account, client) {
  const { provider, params } = ctx.oidc;
  record({ event: 'asked', client: client.clientId, account: account.accountId, message: params.binding_message });
  const decide = async () => {
    if (account.accountId !== 'alice') {
      await provider.backchannelResult(request, new errors.AccessDenied());
      return;
    }
    const grant = new provider.Grant({ accountId: account.accountId, clientId: client.clientId });
    grant.addOIDCScope('openid');
    grant.addResourceScope(params.resource, params.scope);
    await provider.backchannelResult(request, await grant.save());
  };
  setTimeout(() => decide().catch((error) => console.error(error)), 1300);
}

const features = {
  clientCredentials: { enabled: true },
  devInteractions: { enabled: true },
  deviceFlow: { enabled: true },
  introspection: { enabled: true, allowedPolicy: (_ctx, client) => client.clientId === 'introspector' },
  revocation: { enabled: true },
  resourceIndicators: { enabled: true, getResourceServerInfo: (_ctx, resource) => resourceServer(resource) },
  ciba: {
    enabled: true,
    deliveryModes: ['poll'],
    processLoginHint: (_ctx, hint) => hint,
    validateBindingMessage: () => {},
    validateRequestContext: () => {},
    verifyUserCode: () => {},
    triggerAuthenticationDevice: askOnPhone,
  },
  dPoP: {
    enabled: true,
    nonceSecret: randomBytes(32),
    requireNonce: (ctx) => ['dpop', 'bound-code'].includes(ctx.oidc.client?.clientId),
  },
  mTLS: {
    enabled: true,
    certificateBoundAccessTokens: true,
    selfSignedTlsClientAuth: true,
    tlsClientAuth: true,
    getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
    certificateAuthorized: (ctx) => ctx.socket.authorized,
    certificateSubjectMatches: (ctx, property, expected) =>
      property === 'tls_client_auth_san_dns' && ctx.socket.getPeerX509Certificate()?.checkHost(expected) === expected,
  },
  richAuthorizationRequests: {
    enabled: true,
    types: {
      orders: {
        validate: (_ctx, detail) => {
          if (!detail.actions?.length) throw new errors.InvalidAuthorizationDetails('no actions');
        },
      },
    },
    authorizationDetailsForAccessToken: (ctx) => JSON.parse(ctx.oidc.params.authorization_details),
    authorizationDetailsForGrantSource: (ctx) => JSON.parse(ctx.oidc.params.authorization_details),
    authorizationDetailsForIntrospection: (_ctx, token) => token.rar,
  },
};

async function provider(issuer, aliases, known, own, trust) {
  const jwk = { ...(await exportJWK(own.privateKey)), alg: 'ES256', use: 'sig' };
  const made = new Provider(issuer, {
    jwks: { keys: [jwk] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    clients: known,
    clientAuthMethods: [
      ...['none', 'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt'],
      ...['tls_client_auth', 'self_signed_tls_client_auth'],
    ],
    scopes: ['openid', 'offline_access'],
    discovery: { mtls_endpoint_aliases: aliases },
    rotateRefreshToken: true,
    extraTokenClaims: (ctx) => (actors.has(ctx) ? { act: { sub: actors.get(ctx) } } : undefined),
    assertJwtClientAuthClaimsAndHeader: (ctx, claims, header) => observer.assertion(ctx, claims, header),
    features,
  });
  // A human is polled for: five seconds a time would be most of this test.
  made.use(async (ctx, next) => {
    await next();
    if (['backchannel_authentication', 'device_authorization'].includes(ctx.oidc?.route) && ctx.status === 200) ctx.body.interval = 1;
  });
  addGrants(made, { own, trust, resourceServer, samlFile, tokenEndpoint: `${issuer}/token` });
  const observer = observe(made, { record, remember, issued });
  return made;
}

/** As if `alice` had logged in, and her refresh token had been carried here by hand. */
async function refreshToken(made, query) {
  const [client_id, resource, scope] = ['client', 'resource', 'scope'].map((each) => query.get(each));
  const client = await made.Client.find(client_id);
  const grant = new made.Grant({ accountId: 'alice', clientId: client_id });
  grant.addOIDCScope('openid offline_access');
  grant.addResourceScope(resource, scope);
  const grantId = await grant.save();
  const token = new made.RefreshToken({ accountId: 'alice', client, grantId, gty: 'authorization_code', resource, scope });
  const value = await token.save();
  remember(value);
  issued({ client: client_id, kind: 'refresh_token', token: value });
  return value;
}

const providers = {};

async function serve(request, response) {
  const url = new URL(request.url, 'https://auth.invalid');
  if (url.pathname.includes('/.well-known/')) record({ event: 'metadata', path: url.pathname });
  if (url.pathname === '/test/refresh-token' && request.method === 'POST') {
    response.end(await refreshToken(providers[''], url.searchParams));
    return;
  }
  const mount = url.pathname.startsWith('/resource-as/') ? '/resource-as' : '';
  request.originalUrl = request.url; // where oidc-provider sees its mount point
  request.url = request.url.slice(mount.length);
  providers[mount].callback()(request, response);
}

function handle(request, response) {
  serve(request, response).catch((error) => {
    console.error(request.method, request.url, error);
    response.destroy();
  });
}

const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
const mutual = createServer({ ...tls, ca: readFileSync(clientAuthority), requestCert: true, rejectUnauthorized: false }, handle);

await listen(createServer(tls, handle), async (port) => {
  mutual.listen({ host: '127.0.0.1', port: 0 });
  await once(mutual, 'listening');
  const aliases = (mount) => {
    const base = `https://${mtlsName}:${mutual.address().port}${mount}`;
    return { token_endpoint: `${base}/token`, revocation_endpoint: `${base}/token/revocation` };
  };
  const issuer = `https://${name}:${port}`;
  const [first, second] = [await generateKeyPair('ES256', { extractable: true }), await generateKeyPair('ES256', { extractable: true })];
  const publicKey = (file) => importSPKI(readFileSync(`${keys}/${file}`, 'utf8'), 'ES256');
  const trust = { actor: await publicKey('actor.pub'), 'service@interop.example': await publicKey('service.pub') };
  providers[''] = await provider(issuer, aliases(''), clients(rest.secrets, keys), first, trust);
  const others = { [issuer]: first.publicKey };
  providers['/resource-as'] = await provider(`${issuer}/resource-as`, aliases('/resource-as'), resourceClients(rest.secrets), second, others);
});
