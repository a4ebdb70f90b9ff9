// The Anthropic SDK, streaming, with a placeholder for its token.
//
//   node anthropic.mjs BASE-URL

import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.argv[2], maxRetries: 0, timeout: 30_000 });
let text = '';
let released = false;
const stream = await client.messages.create({ model: 'cup', max_tokens: 9, messages: [{ role: 'user', content: 'Tea?' }], stream: true });
for await (const event of stream) {
  // The API says no more until it is told: an event that is held back would never come.
  if (!released) await client.post('/release');
  released = true;
  if (event.type === 'content_block_delta') text += event.delta.text;
}
console.log(text);
