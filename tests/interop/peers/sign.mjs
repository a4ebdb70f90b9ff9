// Somebody else's JWT, for files that cupbearer reads: good for five minutes.
//
//   node sign.mjs KEY.pem ISSUER SUBJECT AUDIENCE

import { createPrivateKey, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { SignJWT } from 'jose';

const [key, issuer, subject, audience] = process.argv.slice(2);
const jwt = new SignJWT({ jti: randomUUID() }).setProtectedHeader({ alg: 'ES256' });
jwt.setIssuer(issuer).setSubject(subject).setAudience(audience).setIssuedAt().setExpirationTime('5m');
console.log(await jwt.sign(createPrivateKey(readFileSync(key))));
