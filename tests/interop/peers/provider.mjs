// The authorization server: oidc-provider, with two issuers behind one HTTPS listener.
//
//   https://NAME:PORT         metadata only at the path of OIDC Discovery
//   https://NAME:PORT/tenant  metadata only at the path of RFC 8414, section 3.1
//
// so that a client that knows one of the two rules fails on the other issuer. The access
// tokens are JWTs for the resource that was asked for (RFC 8707, RFC 9068).

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

import { exportJWK, generateKeyPair } from 'jose';
import { Provider, errors } from 'oidc-provider';

import { journal, listen, secrets, settings } from './common.mjs';

const { certificate, key, name, issuers, resources, journalFile, secretsFile } = settings();
const record = journal(journalFile);
const remember = secrets(secretsFile);

const OIDC = '/.well-known/openid-configuration';
const RFC_8414 = '/.well-known/oauth-authorization-server';

async function provider(issuer, clients) {
  const { privateKey } = await generateKeyPair('ES256', { extractable: true });
  const jwk = { ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig' };
  const made = new Provider(issuer, {
    jwks: { keys: [jwk] },
    cookies: { keys: ['not used by any grant of this test'] },
    clients: clients.map(({ id, secret, method }) => ({
      client_id: id,
      client_secret: secret,
      token_endpoint_auth_method: method,
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      id_token_signed_response_alg: 'ES256',
    })),
    clientAuthMethods: ['client_secret_basic', 'client_secret_post'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        // Nobody gets a token for nowhere in particular.
        defaultResource: () => undefined,
        getResourceServerInfo: (_ctx, resource, _client) => {
          const found = resources[resource];
          if (!found) throw new errors.InvalidTarget();
          return {
            audience: resource,
            scope: 'orders:read orders:write',
            accessTokenTTL: found.lifetime,
            accessTokenFormat: 'jwt',
            jwt: { sign: { alg: 'ES256' } },
          };
        },
      },
    },
  });
  made.on('grant.success', (ctx) => {
    remember(ctx.body.access_token);
    const { client, params } = ctx.oidc;
    const { clientId, clientAuthMethod } = client;
    const { resource } = params;
    record({ event: 'token', issuer, client: clientId, method: clientAuthMethod, resource, expires_in: ctx.body.expires_in });
  });
  made.on('grant.error', (ctx, error) => {
    record({ event: 'token_error', issuer, client: ctx.oidc?.client?.clientId, error: error.message });
  });
  made.on('server_error', (_ctx, error) => console.error(error));
  return made.callback();
}

const handlers = {};

/** Which issuer a path belongs to, and the path within it. */
function place(path) {
  if (path === `${RFC_8414}/tenant`) return { mount: '/tenant', inner: RFC_8414 };
  if (path.startsWith('/tenant/') && ![OIDC, RFC_8414].some((known) => path === `/tenant${known}`)) {
    return { mount: '/tenant', inner: path.slice('/tenant'.length) };
  }
  if (path.startsWith('/tenant') || path.startsWith(RFC_8414)) return undefined;
  return { mount: '', inner: path };
}

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => {
  const url = request.url;
  if (url.includes('/.well-known/')) record({ event: 'metadata', path: url });
  const found = place(url.split('?')[0]);
  if (!found) {
    response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"not_found"}');
    return;
  }
  request.url = found.inner;
  request.originalUrl = found.mount + found.inner; // where oidc-provider sees its mount point
  handlers[found.mount](request, response);
});

await listen(server, async (port) => {
  for (const [mount, clients] of Object.entries(issuers)) {
    handlers[mount] = await provider(`https://${name}:${port}${mount}`, clients);
  }
});
