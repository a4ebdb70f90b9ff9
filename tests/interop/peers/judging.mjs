// Whether the token of a request is a good one for the host that was asked.

import { createRemoteJWKSet, customFetch, jwtVerify } from 'jose';

import { secrets } from './common.mjs';
import { fetcher } from './local.mjs';

/** A function that judges the value of `Authorization`; the secrets file learns each token it sees. */
export function judging({ authority, trust, secretsFile }) {
  const remember = secrets(secretsFile);
  const fetchHere = fetcher(authority);
  /** By host name: who issues its tokens, where the keys are, which audience they must have. */
  const trusted = new Map(
    Object.entries(trust).map(([host, { issuer, jwks, audience }]) => {
      const keys = createRemoteJWKSet(new URL(jwks), { [customFetch]: fetchHere });
      return [host, { issuer, audience, keys }];
    }),
  );

  /** What the journal says of the request's token, and the claims if it is good. */
  return async (header, host) => {
    if (header === undefined) return { token: 'none' };
    const [, token] = /^Bearer ([^ ]+)$/.exec(header) ?? [];
    if (!token) return { token: 'invalid', error: 'not a bearer token' };
    const expected = trusted.get(host);
    if (!expected) return { token: 'invalid', error: `no such host: ${host}` };
    try {
      const { issuer, audience, keys } = expected;
      const options = { issuer, audience, requiredClaims: ['exp', 'iat', 'jti'], algorithms: ['ES256'] };
      const { payload } = await jwtVerify(token, keys, options);
      remember(token);
      return { token: 'valid', aud: payload.aud, iss: payload.iss, client: payload.client_id, jti: payload.jti };
    } catch (error) {
      return { token: 'invalid', error: String(error.code ?? error.message) };
    }
  };
}
