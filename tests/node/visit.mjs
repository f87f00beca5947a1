// What a client does at the desk (tests/interop/desk.py), its user and its model.

export const info = { name: "visitor", version: "1.0.0" };
export const capabilities = { elicitation: {}, sampling: {} };
export const name = async () => ({ action: "accept", content: { name: "Ada" } });
export const write = async () => ({
  role: "assistant",
  model: "m",
  content: { type: "text", text: "On engines" },
});

export async function visit(client, call) {
  const text = async (tool, args, options) => (await call({ name: tool, arguments: args }, options)).content[0].text;
  const progress = [];
  const { tools } = await client.listTools();
  return {
    tools: tools.map((tool) => tool.name).sort(),
    add: await text("add", { a: 3, b: 5 }),
    countdown: await text("countdown", { start: 1 }, { onprogress: (heard) => progress.push(heard.message) }),
    progress,
    greet: await text("greet", {}),
    entitle: await text("entitle", { text: "a text" }),
    echoes: await Promise.all([...Array(20).keys()].map((number) => text("echo", { text: `${number}` }))),
  };
}
