// Grants that oidc-provider lets others add: token exchange (RFC 8693), also to an ID-JAG;
// JWT bearer (RFC 7523), also of an ID-JAG; SAML 2.0 bearer (RFC 7522).

import { readFileSync } from 'node:fs';

import { SignJWT, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
export const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
export const SAML2_BEARER = 'urn:ietf:params:oauth:grant-type:saml2-bearer';
export const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code';
export const CIBA = 'urn:openid:params:grant-type:ciba';

const TYPE = 'urn:ietf:params:oauth:token-type:';
const ID_JAG = { type: `${TYPE}id-jag`, typ: 'oauth-id-jag+jwt' };

/** Who acts for a token's subject: for `extraTokenClaims`. */
export const actors = new WeakMap();

function insist(condition, why) {
  if (!condition) throw new errors.InvalidGrant(why);
}

/** An access token for the resource that was asked for, about `subject`. */
async function issue(ctx, resourceServer, subject, members = {}) {
  const { client, params, provider } = ctx.oidc;
  const info = resourceServer(params.resource);
  const known = new Set(info.scope.split(' '));
  const scope = (params.scope ?? '').split(' ').filter((each) => known.has(each)).join(' ');
  const token = new provider.AccessToken({ client, accountId: subject, gty: 'custom', scope });
  token.resourceServer = new provider.ResourceServer(params.resource, info);
  ctx.oidc.entity('AccessToken', token);
  const access_token = await token.save();
  ctx.body = { access_token, token_type: token.tokenType, expires_in: token.expiration, scope, ...members };
}

/** `own` is the key of this issuer, `trust` who else may say who somebody is. */
export function addGrants(provider, { own, trust, resourceServer, samlFile, tokenEndpoint }) {
  const mine = async (token, type, client) => {
    insist([`${TYPE}access_token`, `${TYPE}id_token`].includes(type), `a subject of type ${type}`);
    const audience = type === `${TYPE}id_token` ? client.clientId : undefined;
    const { payload } = await jwtVerify(token, own.publicKey, { issuer: provider.issuer, audience }).catch((cause) => {
      throw new errors.InvalidGrant(`the subject is no token of ours: ${cause.message}`);
    });
    return payload;
  };

  const exchange = async (ctx) => {
    const { client, params } = ctx.oidc;
    const subject = await mine(params.subject_token, params.subject_token_type, client);
    if (params.requested_token_type === ID_JAG.type) {
      const claims = { client_id: 'resource-app', resource: params.resource, scope: params.scope };
      const jag = new SignJWT(claims).setProtectedHeader({ alg: 'ES256', typ: ID_JAG.typ });
      jag.setIssuer(provider.issuer).setSubject(subject.sub).setAudience(params.audience);
      const access_token = await jag.setJti(crypto.randomUUID()).setIssuedAt().setExpirationTime('5m').sign(own.privateKey);
      ctx.body = { access_token, issued_token_type: ID_JAG.type, token_type: 'N_A', expires_in: 300 };
      return;
    }
    if (params.actor_token) {
      const { payload } = await jwtVerify(params.actor_token, trust.actor, { audience: provider.issuer });
      actors.set(ctx, payload.sub);
    }
    await issue(ctx, resourceServer, subject.sub, { issued_token_type: `${TYPE}access_token` });
  };

  const jwtBearer = async (ctx) => {
    const { client, params } = ctx.oidc;
    const { iss } = decodeJwt(params.assertion);
    insist(Object.hasOwn(trust, iss), `an assertion of ${iss}`);
    const options = { issuer: iss, audience: provider.issuer, requiredClaims: ['sub', 'exp', 'iat', 'jti'] };
    const { payload } = await jwtVerify(params.assertion, trust[iss], options).catch((cause) => {
      throw new errors.InvalidGrant(`no good assertion: ${cause.message}`);
    });
    insist(typeof payload.aud === 'string', 'several audiences');
    if (decodeProtectedHeader(params.assertion).typ === ID_JAG.typ) {
      insist(payload.client_id === client.clientId, 'an ID-JAG for another client');
      params.resource ??= payload.resource;
      insist(payload.resource === params.resource, 'an ID-JAG for another resource');
    }
    await issue(ctx, resourceServer, payload.sub);
  };

  const saml2Bearer = async (ctx) => {
    const { assertion } = ctx.oidc.params;
    // RFC 7522, section 2.1: base64url, no padding, no line breaks.
    insist(/^[A-Za-z0-9_-]+$/.test(assertion), 'not base64url');
    const xml = String(Buffer.from(assertion, 'base64url'));
    insist(xml === readFileSync(samlFile, 'utf8'), 'not the assertion that the identity provider made');
    const part = (pattern) => pattern.exec(xml)?.[1];
    insist(part(/<saml:Audience>([^<]+)</) === provider.issuer, 'another audience');
    insist(part(/ Recipient="([^"]+)"/) === tokenEndpoint, 'another recipient');
    insist(Date.parse(part(/ NotOnOrAfter="([^"]+)"/)) > Date.now(), 'too late');
    await issue(ctx, resourceServer, part(/<saml:NameID>([^<]+)</));
  };

  const common = ['resource', 'scope'];
  const subject = ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type'];
  provider.registerGrantType(TOKEN_EXCHANGE, exchange, [...common, ...subject, 'audience', 'requested_token_type']);
  provider.registerGrantType(JWT_BEARER, jwtBearer, [...common, 'assertion']);
  provider.registerGrantType(SAML2_BEARER, saml2Bearer, [...common, 'assertion']);
}
