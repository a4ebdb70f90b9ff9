// The OpenAI SDK, streaming, with a placeholder for its key.
//
//   node openai.mjs BASE-URL

import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], maxRetries: 0, timeout: 30_000 });
let text = '';
const stream = await client.chat.completions.create({ model: 'cup', messages: [{ role: 'user', content: 'Tea?' }], stream: true });
for await (const chunk of stream) {
  // The API says no more until it is told: an event that is held back would never come.
  if (!text) await client.post('/../release');
  text += chunk.choices[0].delta.content ?? '';
}
console.log(text);
