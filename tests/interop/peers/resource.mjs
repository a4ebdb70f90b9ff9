// The protected API of the grants. It verifies every token itself: its signature (or, where
// the token says nothing by itself, what its server says of it), its audience, its scope,
// what it is bound to, and what its `authorization_details` allow.
//
//   GET /v1/orders   wants orders:read      GET /v1/admin   wants orders:admin
//   POST /v1/orders  wants orders:write     GET /v1/owner   wants orders:owner

import { createHash, randomUUID, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureServer } from 'node:http2';

import { EmbeddedJWK, calculateJwkThumbprint, createRemoteJWKSet, customFetch, jwtVerify } from 'jose';

import { answer, journal, listen, secrets, settings } from './common.mjs';
import { asker, fetcher } from './local.mjs';

const { authority, certificate, key, issuer, issuers, opaque, bound, nonces, detailed, ...rest } = settings();
const record = journal(rest.journalFile);
const remember = secrets(rest.secretsFile);
const ask = asker(authority);
const fetchHere = fetcher(authority);

const sha256 = (data) => createHash('sha256').update(data).digest('base64url');

/** Why a request isn't served: a status, an error code, what else belongs into the challenge. */
class Refusal extends Error {
  constructor(status, code, why, more = {}) {
    super(why);
    Object.assign(this, { status, code, more });
  }
}

const keySets = new Map();

/** The claims of a token that is good for `host`. */
async function claimsOf(token, host) {
  const from = issuers[host] ?? issuer;
  if (opaque.includes(host)) return introspected(token, from, host);
  if (!keySets.has(from)) keySets.set(from, createRemoteJWKSet(new URL(`${from}/jwks`), { [customFetch]: fetchHere }));
  const requiredClaims = ['exp', 'iat', 'jti', 'client_id'];
  const options = { issuer: from, audience: `https://${host}/`, typ: 'at+jwt', algorithms: ['ES256'], requiredClaims };
  const { payload } = await jwtVerify(token, keySets.get(from), options).catch((cause) => {
    throw new Refusal(401, 'invalid_token', String(cause.code ?? cause.message));
  });
  return payload;
}

/** RFC 7662. */
async function introspected(token, from, host) {
  const headers = {
    authorization: `Basic ${Buffer.from(`introspector:${encodeURIComponent(rest.secret)}`).toString('base64')}`,
    'content-type': 'application/x-www-form-urlencoded',
  };
  const { status, text } = await ask(`${from}/token/introspection`, { method: 'POST', headers, body: new URLSearchParams({ token }).toString() });
  if (status !== 200) throw new Error(`introspection: ${status} ${text}`);
  const claims = JSON.parse(text);
  if (!claims.active || claims.aud !== `https://${host}/`) throw new Refusal(401, 'invalid_token', 'not active, or for another API');
  return claims;
}

let nonce = randomUUID();
const proofs = new Set();

/** RFC 9449, section 4.3. */
async function checkProof(request, host, token, jkt) {
  const { dpop } = request.headers;
  if (!dpop || Array.isArray(dpop)) throw new Refusal(401, 'invalid_dpop_proof', 'not one proof');
  const options = { typ: 'dpop+jwt', algorithms: ['ES256'], requiredClaims: ['jti', 'htm', 'htu', 'iat', 'ath'], maxTokenAge: '60s', clockTolerance: 5 };
  const { payload, protectedHeader } = await jwtVerify(dpop, EmbeddedJWK, options).catch((cause) => {
    throw new Refusal(401, 'invalid_dpop_proof', cause.message);
  });
  const url = `https://${request.headers[':authority'] ?? request.headers.host}${new URL(request.url, 'https://x.invalid').pathname}`;
  if (payload.htm !== request.method || payload.htu !== url) throw new Refusal(401, 'invalid_dpop_proof', `for ${payload.htm} ${payload.htu}`);
  if (payload.ath !== sha256(token)) throw new Refusal(401, 'invalid_dpop_proof', 'for another token');
  if ((await calculateJwkThumbprint(protectedHeader.jwk)) !== jkt) throw new Refusal(401, 'invalid_dpop_proof', 'by another key');
  if (proofs.has(payload.jti)) throw new Refusal(401, 'invalid_dpop_proof', 'used before');
  proofs.add(payload.jti);
  if (nonces.includes(host) && payload.nonce !== nonce) throw new Refusal(401, 'use_dpop_nonce', 'another nonce is wanted');
}

/** The token has to be shown by whom it was given to: RFC 8705, section 3; RFC 9449, section 7. */
async function checkBinding(request, host, scheme, token, cnf = {}) {
  const kind = cnf['x5t#S256'] ? 'certificate' : cnf.jkt ? 'key' : 'nothing';
  if ((bound[host] ?? 'nothing') !== kind) throw new Refusal(401, 'invalid_token', `bound to ${kind}`);
  if (scheme.toLowerCase() !== (kind === 'key' ? 'dpop' : 'bearer')) throw new Refusal(401, 'invalid_token', `${scheme} and bound to ${kind}`);
  if (kind === 'key') await checkProof(request, host, token, cnf.jkt);
  if (kind === 'certificate') {
    const shown = request.socket.getPeerCertificate(true)?.raw;
    if (!shown) throw new Refusal(401, 'invalid_token', 'no certificate was shown');
    if (sha256(new X509Certificate(shown).raw) !== cnf['x5t#S256']) throw new Refusal(401, 'invalid_token', 'another certificate was shown');
  }
  return kind;
}

function neededScope(method, path) {
  if (path === '/v1/orders') return method === 'POST' ? 'orders:write' : 'orders:read';
  return { '/v1/admin': 'orders:admin', '/v1/owner': 'orders:owner' }[path];
}

/** Fills `seen` with what the journal is to say. */
async function judge(request, host, path, seen) {
  const header = request.headers.authorization;
  seen.token = header === undefined ? 'none' : 'invalid';
  if (header === undefined) throw new Refusal(401, undefined, 'no token');
  const [, scheme, token] = /^([A-Za-z]+) ([^ ]+)$/.exec(header) ?? [];
  if (!token) throw new Refusal(401, 'invalid_token', 'no bearer token');
  const claims = await claimsOf(token, host);
  remember(token);
  const { aud, iss, client_id: client, sub, jti, scope = '', act, cnf, authorization_details: details } = claims;
  seen.token = 'valid';
  Object.assign(seen, { aud, iss, client, sub, jti, scope, act: act?.sub });
  // A token in the wrong hands is no valid one; a proof that lacks a nonce still is.
  seen.bound = await checkBinding(request, host, scheme, token, cnf).catch((refusal) => {
    if (refusal.code !== 'use_dpop_nonce') seen.token = 'invalid';
    throw refusal;
  });
  const needed = neededScope(request.method, path);
  if (needed === undefined) throw new Refusal(404, undefined, 'no such thing here');
  if (!scope.split(' ').includes(needed)) throw new Refusal(403, 'insufficient_scope', `without ${needed}`, { scope: needed });
  if (!detailed.includes(host)) return;
  const allowed = details?.some(({ type, actions }) => type === 'orders' && actions.includes('read'));
  if (!allowed) throw new Refusal(403, 'insufficient_authorization', 'the details allow no reading');
  seen.details = details.length;
}

function challenge(refusal, scheme) {
  const error = refusal.code ? { error: refusal.code } : {};
  const params = { realm: 'interop', ...error, ...refusal.more };
  return `${scheme} ${Object.entries(params).map(([name, value]) => `${name}="${value}"`).join(', ')}`;
}

async function serve(request, response) {
  const host = (request.headers[':authority'] ?? request.headers.host ?? '').replace(/:\d+$/, '');
  const path = new URL(request.url, 'https://x.invalid').pathname;
  const shown = Object.keys(request.headers).filter((name) => /^(proxy-|x-api-key|api-key|cookie)/.test(name));
  const seen = { method: request.method, path, host, shown };
  const headers = {};
  let refusal;
  try {
    await judge(request, host, path, seen);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refusal = error;
    seen.error = `${refusal.code ?? ''} ${refusal.message}`.trim();
    headers['www-authenticate'] = challenge(refusal, bound[host] === 'key' ? 'DPoP' : 'Bearer');
  }
  // A nonce is good for one request: every answer has the next.
  if (nonces.includes(host)) headers['dpop-nonce'] = nonce = randomUUID();
  record({ ...seen, status: refusal?.status ?? 200 });
  if (refusal) answer(response, refusal.status, { error: refusal.message }, headers);
  else answer(response, 200, { orders: [{ id: 1, item: 'cup' }], client: seen.client, subject: seen.sub }, headers);
}

function handle(request, response) {
  serve(request, response).catch((error) => {
    console.error(request.method, request.url, error);
    response.destroy();
  });
}

// Whoever asks may show a certificate, of any authority: the token says which it has to be.
const tls = { cert: readFileSync(certificate), key: readFileSync(key), requestCert: true, rejectUnauthorized: false };
await listen(createSecureServer({ ...tls, allowHTTP1: true }, handle));
