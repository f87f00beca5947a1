// The SDK for TypeScript as a client: `node sdk.mjs sse|streamable URL`. The key is in MCP_KEY. Says on standard output, as
// JSON, what the server made of it; `sdk2.mjs` is the same for the second major version.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

import { capabilities, info, name, visit, write } from "./visit.mjs";

const [kind, url] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.MCP_KEY}` };
const Transport = kind === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
const transport = new Transport(new URL(url), { requestInit: { headers } });
const client = new Client(info, { capabilities });
client.setRequestHandler(ElicitRequestSchema, name);
client.setRequestHandler(CreateMessageRequestSchema, write);
await client.connect(transport);
const said = await visit(client, (params, options) => client.callTool(params, undefined, options));
if (kind === "streamable") await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ version: transport.protocolVersion ?? null, ...said })); // only one of the transports tells
