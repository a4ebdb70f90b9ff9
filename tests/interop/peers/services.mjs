// What agents use besides plain JSON: APIs of language models that stream, package indexes, MCP servers, a page for
// a browser, WebSockets.
//
//   POST /v1/chat/completions   server-sent events as OpenAI sends them
//   POST /v1/messages           server-sent events as Anthropic sends them
//   POST /release               lets such a stream go on: after its first event it waits for this
//   GET  /simple/…, /files/…    a Python package index (PEP 503)
//   GET  /npm/…                 a package of an npm registry
//   GET  /page                  a page whose script asks /v1/orders
//   /mcp/NAME                   forwarded to the MCP server of that name

import { once } from 'node:events';
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';

import { WebSocketServer } from 'ws';

import { answer } from './common.mjs';

const WORDS = ['A ', 'cup ', 'of ', 'tea'];

const PAGE = `<!doctype html><title>waiting</title><p id="cup"></p><script type="module">
const answer = await fetch('/v1/orders');
document.getElementById('cup').textContent = (await answer.json()).orders[0].item;
document.title = 'done';
</script>`;

/** A function that serves what is listed above and says whether it did. */
export function services({ packages, forward = {} }) {
  let release = () => {};
  const paused = () => new Promise((resolve) => (release = resolve));

  async function stream(response, events) {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    for (const [index, event] of events.entries()) {
      // Nobody can let it go on who hasn't been given the first event: one that is held back hangs.
      const wait = index === 1 ? paused() : undefined;
      response.write(event);
      await wait;
    }
    response.end();
  }

  return async (request, response, { pathname }) => {
    const [, server] = /^\/mcp\/(\w+)$/.exec(pathname) ?? [];
    if (pathname === '/v1/chat/completions') {
      await body(request);
      await stream(response, openai());
    } else if (pathname === '/v1/messages') {
      await body(request);
      await stream(response, anthropic());
    } else if (pathname === '/release') {
      release();
      answer(response, 200, { released: true });
    } else if (pathname === '/simple/interop-cup/') {
      response.writeHead(200, { 'content-type': 'text/html' });
      response.end('<a href="/files/interop_cup-1.0-py3-none-any.whl">interop_cup-1.0-py3-none-any.whl</a>');
    } else if (pathname === '/npm/interop-cup') {
      const tarball = `https://${request.headers[':authority'] ?? request.headers.host}/files/interop-cup-1.0.0.tgz`;
      const dist = { tarball, integrity: readFileSync(join(packages, 'integrity'), 'utf8').trim() };
      const version = { name: 'interop-cup', version: '1.0.0', dist };
      answer(response, 200, { name: 'interop-cup', 'dist-tags': { latest: '1.0.0' }, versions: { '1.0.0': version } });
    } else if (pathname.startsWith('/files/') && existsSync(join(packages, basename(pathname)))) {
      response.writeHead(200, { 'content-type': 'application/octet-stream' });
      await pipeline(createReadStream(join(packages, basename(pathname))), response);
    } else if (pathname === '/page') {
      response.writeHead(200, { 'content-type': 'text/html' });
      response.end(PAGE);
    } else if (server && forward[server]) {
      await pass(request, response, forward[server]);
    } else {
      return false;
    }
    return true;
  };
}

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}

function openai() {
  const chunk = (delta, finish) => ({
    id: 'cup-1',
    object: 'chat.completion.chunk',
    created: 1,
    model: 'cup',
    choices: [{ index: 0, delta, finish_reason: finish ?? null }],
  });
  const chunks = [...WORDS.map((content) => chunk({ role: 'assistant', content })), chunk({}, 'stop')];
  return [...chunks.map((each) => `data: ${JSON.stringify(each)}\n\n`), 'data: [DONE]\n\n'];
}

function anthropic() {
  const usage = { input_tokens: 1, output_tokens: 4 };
  const message = { id: 'cup-1', type: 'message', role: 'assistant', model: 'cup', content: [], stop_reason: null, stop_sequence: null, usage };
  const events = [
    { type: 'message_start', message },
    { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    ...WORDS.map((text) => ({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } })),
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null }, usage },
    { type: 'message_stop' },
  ];
  return events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
}

/** To a server on this machine that knows no TLS and no tokens. */
async function pass(request, response, to) {
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !/^:|^(host|connection|authorization)$/.test(name)));
  const onward = httpRequest(to, { method: request.method, headers });
  response.on('close', () => onward.destroy());
  const sent = pipeline(request, onward);
  const [reply] = await once(onward, 'response');
  for (const name of ['connection', 'keep-alive', 'transfer-encoding']) delete reply.headers[name];
  response.writeHead(reply.statusCode, reply.headers);
  response.flushHeaders?.();
  await pipeline(reply, response);
  await sent;
}

/** Echoes every message of a WebSocket, text as text. `judged` is asked first, as for any request. */
export function webSockets(server, judged) {
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => (offered.has('cup') ? 'cup' : false) });
  server.on('upgrade', (request, socket, head) => {
    judged(request, new URL(request.url, 'https://api.invalid').pathname).then((judgement) => {
      if (judgement.token !== 'valid') return socket.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n');
      sockets.handleUpgrade(request, socket, head, (webSocket) => {
        webSocket.on('message', (message, binary) => webSocket.send(message, { binary }));
      });
    });
  });
}
