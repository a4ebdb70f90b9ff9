// The MCP SDK for TypeScript over streamable HTTP, as any agent calls it, without a credential.
//
//   node mcp.mjs URL TOOL ARGUMENTS

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [url, name, text] = process.argv.slice(2);
const client = new Client({ name: 'interop', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const { tools } = await client.listTools();
console.log('tools', tools.length);
const progress = [];
const result = await client.callTool({ name, arguments: JSON.parse(text) }, undefined, { onprogress: (step) => progress.push(step.progress) });
console.log(result.content[0].text);
console.log('progress', progress.join(' '));
await transport.terminateSession();
await client.close();
