// The protected API: HTTPS with HTTP/2 and HTTP/1.1, or with HTTP/1.1 alone, and every request judged by its JWT.
//
//   GET  /v1/orders   a small JSON answer (HEAD too)
//   GET  /bytes/N     N bytes, streamed
//   POST /sink        counts the bytes it gets and answers the count (PUT too: curl -T)
//   /git/…            a git repository over smart HTTP, by `git http-backend`
//   more              see services.mjs
//
// What it saw goes to a journal, one JSON line a request: never the token, but whether it
// was valid and for whom. The audience is part of the name that was asked for, so that a
// token that strays to another host is found out here.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createSecureServer } from 'node:http2';
import { createServer } from 'node:https';
import { pipeline } from 'node:stream/promises';

import { answer, journal, listen, settings } from './common.mjs';
import { judging } from './judging.mjs';
import { services, webSockets } from './services.mjs';

const { http2, authority, certificate, key, trust, repositories, packages, forward, journalFile, secretsFile } = settings();
const record = journal(journalFile);

const judge = judging({ authority, trust, secretsFile });

async function* bytes(count) {
  const block = Buffer.alloc(64 * 1024);
  for (let left = count; left > 0; left -= block.length) yield left < block.length ? block.subarray(0, left) : block;
}

async function count(stream) {
  let total = 0;
  for await (const part of stream) total += part.length;
  return total;
}

/** RFC 3875, as far as `git http-backend` needs it. */
async function git(request, response, path, query) {
  const child = spawn('git', ['http-backend'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: repositories,
      GIT_HTTP_EXPORT_ALL: '1',
      REQUEST_METHOD: request.method,
      PATH_INFO: path,
      QUERY_STRING: query,
      CONTENT_TYPE: request.headers['content-type'] ?? '',
      ...(request.headers['content-length'] && { CONTENT_LENGTH: request.headers['content-length'] }),
      ...(request.headers['content-encoding'] && { HTTP_CONTENT_ENCODING: request.headers['content-encoding'] }),
      ...(request.headers['git-protocol'] && { GIT_PROTOCOL: request.headers['git-protocol'] }),
      REMOTE_USER: 'interop',
    },
  });
  const sent = pipeline(request, child.stdin).catch(() => {}); // it may not read all of it
  let head = Buffer.alloc(0);
  const output = child.stdout[Symbol.asyncIterator]();
  let end = -1;
  while (end < 0) {
    const { value, done } = await output.next();
    if (done) throw new Error('git http-backend ended without an answer');
    head = Buffer.concat([head, value]);
    end = head.indexOf('\r\n\r\n');
  }
  let status = 200;
  for (const line of head.subarray(0, end).toString('latin1').split('\r\n')) {
    const colon = line.indexOf(':');
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trim()];
    if (name.toLowerCase() === 'status') status = Number.parseInt(value, 10);
    else response.setHeader(name, value);
  }
  response.writeHead(status);
  response.write(head.subarray(end + 4));
  await pipeline(async function* rest() {
    for (;;) {
      const { value, done } = await output.next();
      if (done) return;
      yield value;
    }
  }, response);
  await sent;
}

/** Judges a request and writes it down, whatever comes of it. */
async function judged(request, path) {
  const authorityHeader = request.headers[':authority'] ?? request.headers.host ?? '';
  const host = authorityHeader.replace(/:\d+$/, '');
  const judgement = await judge(request.headers.authorization, host);
  const shown = Object.keys(request.headers).filter((name) => /^(proxy-|x-api-key|api-key|cookie)/.test(name));
  record({ method: request.method, path, http: request.httpVersion, host, ...judgement, shown });
  return judgement;
}

async function serve(request, response) {
  const url = new URL(request.url, 'https://api.invalid');
  const judgement = await judged(request, url.pathname);
  if (judgement.token !== 'valid') {
    const challenge = judgement.token === 'none' ? 'Bearer realm="interop"' : 'Bearer realm="interop", error="invalid_token"';
    answer(response, 401, { error: judgement.error ?? 'no token' }, { 'www-authenticate': challenge });
    return;
  }
  const [, size] = /^\/bytes\/(\d+)$/.exec(url.pathname) ?? [];
  if (url.pathname === '/v1/orders' && ['GET', 'HEAD'].includes(request.method)) {
    answer(response, 200, { orders: [{ id: 1, item: 'cup' }], client: judgement.client });
  } else if (size !== undefined && request.method === 'GET') {
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': size });
    await pipeline(bytes(Number(size)), response);
  } else if (url.pathname === '/sink' && ['POST', 'PUT'].includes(request.method)) {
    answer(response, 200, { received: await count(request) });
  } else if (url.pathname.startsWith('/git/')) {
    await git(request, response, url.pathname.slice('/git'.length), url.search.slice(1));
  } else if (!(await more(request, response, url))) {
    answer(response, 404, { error: 'no such thing here' });
  }
}

const more = services({ packages, forward });

function handle(request, response) {
  serve(request, response).catch((error) => {
    if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE') console.error(request.method, request.url, error);
    response.destroy();
  });
}

const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
// The default window of 64 KiB would measure Node's round trips and not the proxy.
const server = http2
  ? createSecureServer({ ...tls, allowHTTP1: true, settings: { initialWindowSize: 1 << 20 } }, handle)
  : createServer(tls, handle);
server.on('session', (session) => session.setLocalWindowSize(4 << 20));
webSockets(server, judged);
// Also connections that never become a request: a refused host must not even be dialled.
server.on('connection', () => record({ event: 'connection' }));
await listen(server);
