// A gRPC service, each call judged by its JWT as the API judges requests. Messages are bytes: no schema is needed
// to see that they arrive, in which order, and with which metadata, deadline and status.
//
//   One, Up, Down, Both   unary, client-streaming, server-streaming, bidirectional
//   Slow                  never answers: ends with the call

import { readFileSync } from 'node:fs';

import { Metadata, Server, ServerCredentials, status } from '@grpc/grpc-js';

import { journal, settings } from './common.mjs';
import { judging } from './judging.mjs';

const { authority, certificate, key, trust, journalFile, secretsFile } = settings();
const record = journal(journalFile);
const judge = judging({ authority, trust, secretsFile });

const bytes = { requestSerialize: (it) => it, requestDeserialize: (it) => it, responseSerialize: (it) => it, responseDeserialize: (it) => it };
const method = (name, requestStream, responseStream) => ({ path: `/cup.Cups/${name}`, requestStream, responseStream, ...bytes });

/** Judges a call and writes it down; gives what to refuse it with, or nothing. */
async function refusal(call, name) {
  const host = call.getHost().replace(/:\d+$/, '');
  const judgement = await judge(call.metadata.get('authorization')[0]?.toString(), host);
  const shown = Object.keys(call.metadata.getMap()).filter((each) => /^(proxy-|x-api-key|cookie)/.test(each));
  const left = (call.getDeadline() - Date.now()) / 1000;
  record({ method: 'POST', path: `/cup.Cups/${name}`, http: 'grpc', host, ...judgement, shown, deadline: left > 0 && left <= 31 ? 'known' : 'unknown' });
  return judgement.token === 'valid' ? undefined : { code: status.UNAUTHENTICATED, details: 'no valid token' };
}

function trailers() {
  const metadata = new Metadata();
  metadata.set('cup-trailer', 'empty');
  metadata.set('cup-trailer-bin', Buffer.from([0, 255]));
  return metadata;
}

function unary(name, reply) {
  return (call, done) => {
    refusal(call, name).then((refused) => (refused ? done(refused) : reply(call, done)));
  };
}

/** For calls that stream their answer: a refusal is an error of the call. */
function streaming(name, reply) {
  return (call) => {
    refusal(call, name).then((refused) => (refused ? call.emit('error', refused) : reply(call)));
  };
}

const methods = {
  One: method('One', false, false),
  Up: method('Up', true, false),
  Down: method('Down', false, true),
  Both: method('Both', true, true),
  Slow: method('Slow', false, false),
};

const server = new Server();
server.addService(methods, {
  One: unary('One', (call, done) => {
    if (String(call.request) === 'none') done({ code: status.NOT_FOUND, details: 'no such cup: ☕', metadata: trailers() });
    else done(null, call.request, trailers());
  }),
  Up: (call, done) => {
    let total = 0;
    call.on('data', (message) => (total += message.length));
    const ended = new Promise((resolve) => call.on('end', resolve));
    refusal(call, 'Up').then(async (refused) => {
      await ended;
      if (refused) done(refused);
      else done(null, Buffer.from(String(total)), trailers());
    });
  },
  Down: streaming('Down', (call) => {
    for (let number = 0; number < 100; number += 1) call.write(Buffer.from(`${number}`));
    call.end(trailers());
  }),
  Both: streaming('Both', (call) => {
    call.on('data', (message) => call.write(message));
    call.on('end', () => call.end(trailers()));
  }),
  Slow: unary('Slow', (call) => {
    call.on('cancelled', () => record({ event: 'cancelled', path: '/cup.Cups/Slow' }));
  }),
});

const pair = { private_key: readFileSync(key), cert_chain: readFileSync(certificate) };
server.bindAsync('127.0.0.1:0', ServerCredentials.createSsl(null, [pair]), (error, port) => {
  if (error) throw error;
  console.log(JSON.stringify({ port }));
});
process.on('SIGTERM', () => process.exit(0));
