// @grpc/grpc-js, as any agent calls it, without a credential: all four kinds of calls, and what surrounds them.
//
//   node grpc.mjs HOST:PORT

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { Client, credentials, status } from '@grpc/grpc-js';

const same = (it) => it;
const client = new Client(process.argv[2], credentials.createSsl(readFileSync(process.env.SSL_CERT_FILE)));
const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });
const ended = (call) => new Promise((resolve) => call.on('status', resolve));

const one = (message, options) =>
  new Promise((resolve) => {
    const name = message === 'slow' ? 'Slow' : 'One';
    let answer;
    let error;
    const call = client.makeUnaryRequest(`/cup.Cups/${name}`, same, same, Buffer.from(message), options, (failure, value) => {
      [error, answer] = [failure, value];
    });
    call.on('status', (end) => setImmediate(() => resolve({ answer, error, end })));
  });

const first = await one('cup', within(30));
assert.equal(String(first.answer), 'cup');
assert.deepEqual(first.end.metadata.get('cup-trailer'), ['empty']);
assert.deepEqual(first.end.metadata.get('cup-trailer-bin'), [Buffer.from([0, 255])]);

const sum = await new Promise((resolve, reject) => {
  const up = client.makeClientStreamRequest('/cup.Cups/Up', same, same, within(30), (error, value) => (error ? reject(error) : resolve(value)));
  for (let number = 0; number < 20; number += 1) up.write(Buffer.alloc(100_000, 'x'));
  up.end();
});
assert.equal(String(sum), '2000000');

const numbers = [];
const down = client.makeServerStreamRequest('/cup.Cups/Down', same, same, Buffer.alloc(0), within(30));
for await (const message of down) numbers.push(Number(message));
assert.deepEqual(numbers, Array.from({ length: 100 }, (_, number) => number));

// Each message is sent when the one before has come back: nothing may wait for more.
const answered = [];
const both = client.makeBidiStreamRequest('/cup.Cups/Both', same, same, within(30));
const over = ended(both);
both.write(Buffer.from('0'));
for await (const message of both) {
  answered.push(Number(message));
  if (answered.length < 10) both.write(Buffer.from(`${answered.length}`));
  else both.end();
}
assert.deepEqual(answered, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
assert.deepEqual((await over).metadata.get('cup-trailer'), ['empty']);

const none = await one('none', within(30));
assert.equal(none.error.code, status.NOT_FOUND);
assert.equal(none.error.details, 'no such cup: ☕');
assert.deepEqual(none.end.metadata.get('cup-trailer'), ['empty']);

const slow = await one('slow', within(3));
assert.equal(slow.error.code, status.DEADLINE_EXCEEDED);

client.close();
console.log('six calls');
