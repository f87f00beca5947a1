// The second major version of the SDK for TypeScript as a client: `node sdk2.mjs legacy|auto URL`; see sdk.mjs.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { capabilities, info, name, visit, write } from "./visit.mjs";

const [mode, url] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.MCP_KEY}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client(info, { capabilities, versionNegotiation: { mode } });
client.setRequestHandler("elicitation/create", name);
client.setRequestHandler("sampling/createMessage", write);
await client.connect(transport);
const said = await visit(client, (params, options) => client.callTool(params, options));
const version = client.getNegotiatedProtocolVersion();
if (mode === "legacy") await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ version, ...said }));
