// What the peers share: their arguments, their journals, the line that says they are ready.

import { once } from 'node:events';
import { appendFileSync, readFileSync } from 'node:fs';

/** The settings of a peer: a JSON file named by its only argument. */
export function settings() {
  const [, program, file] = process.argv;
  if (!file) {
    console.error(`usage: node ${program} SETTINGS.json`);
    process.exit(2);
  }
  return JSON.parse(readFileSync(file, 'utf8'));
}

/** A file of JSON lines. Written synchronously: whoever got an answer finds its line. */
export function journal(file) {
  return (entry) => appendFileSync(file, `${JSON.stringify(entry)}\n`);
}

/** The file of every token ever issued or seen, one a line: what must appear nowhere else. */
export function secrets(file) {
  const known = new Set();
  return (token) => {
    if (token && !known.has(token)) {
      known.add(token);
      appendFileSync(file, `${token}\n`, { mode: 0o600 });
    }
  };
}

/** A small answer in JSON. */
export function answer(response, status, body, headers = {}) {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...headers });
  response.end(text);
}

/**
 * Listens on a free port of 127.0.0.1, prepares what depends on the port, and says in one
 * line on stdout that all is ready.
 */
export async function listen(server, prepare = async () => {}) {
  process.on('SIGTERM', () => process.exit(0));
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  const { port } = server.address();
  await prepare(port);
  console.log(JSON.stringify({ port }));
}
