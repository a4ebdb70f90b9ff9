// HTTPS to names that are all on this machine, over TLS that trusts the test's authority only.

import { readFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';

/** Whatever the name: it is here. */
export function lookup(_name, options, done) {
  if (options.all) done(null, [{ address: '127.0.0.1', family: 4 }]);
  else done(null, '127.0.0.1', 4);
}

/** A function that asks: `(url, { method, headers, body }) => { status, headers, text }`. */
export function asker(authority) {
  const ca = readFileSync(authority);
  return (url, { method = 'GET', headers = {}, body } = {}) =>
    new Promise((resolve, reject) => {
      const asked = httpsRequest(url, { ca, lookup, method, headers }, (answer) => {
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text: String(Buffer.concat(parts)) }));
        answer.on('error', reject);
      });
      asked.on('error', reject).end(body);
    });
}

/** The same in the shape of `fetch`, as far as jose needs it. */
export function fetcher(authority) {
  const ask = asker(authority);
  return async (url, { headers } = {}) => {
    const { status, text } = await ask(url, { headers: Object.fromEntries(new Headers(headers)) });
    return new Response(text, { status });
  };
}
