// What an agent does with the server of server.mjs, with the libraries that people use for it.
//
//   node client.mjs WHAT HOST
import {createClient} from "graphql-ws";
import {Client} from "@modelcontextprotocol/sdk/client/index.js";
import {StreamableHTTPClientTransport} from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import WebSocket from "ws";

const [what, host] = process.argv.slice(2);

async function post(query) {
  const r = await fetch(`https://${host}/graphql`, {method: "POST", headers: {"content-type": "application/json", accept: "application/json"}, body: JSON.stringify({query})});
  console.log(r.status, (await r.text()).trim());
}

async function graphql() {
  await post("query Who { me: viewer(text: \"AKIAIOSFODNN7EXAMPLE\") }");
  await post("mutation { viewer: deleteRepository }");
  const r = await fetch(`https://${host}/graphql?query=${encodeURIComponent("{ viewer }")}`, {headers: {accept: "application/json"}});
  console.log(r.status, (await r.text()).trim());
}

async function mcp() {
  const client = new Client({name: "agent", version: "1"});
  const transport = new StreamableHTTPClientTransport(new URL(`https://${host}/mcp`));
  await client.connect(transport);
  console.log((await client.listTools()).tools.map((t) => t.name).join(" "));
  for (const name of ["search_web", "delete_all"]) {
    try {
      console.log((await client.callTool({name})).content[0].text);
    } catch (e) {
      console.log("refused:", e.message.trim());
    }
  }
  await transport.terminateSession();
  await client.close();
}

// talk sends texts one after the other and says what comes back and how it ends.
function talk(path, ...texts) {
  return new Promise((done) => {
    const ws = new WebSocket(`wss://${host}${path}`);
    const next = () => (texts.length ? ws.send(texts.shift()) : ws.close(1000));
    ws.on("open", () => { console.log("open", JSON.stringify(ws.extensions)); next(); });
    ws.on("message", (data) => { console.log("message", data.toString()); next(); });
    ws.on("close", (code, reason) => { console.log("closed", code, reason.toString()); done(); });
    ws.on("error", (e) => console.log("error", e.message));
  });
}

async function websocket() {
  await talk("/echo", "hello", "again ".repeat(2000), "key AKIAIOSFODNN7EXAMPLE");
  await talk("/echo", Buffer.from([0, 255]));
  await talk("/listen", "not allowed here");
}

async function operations() {
  const client = createClient({url: `wss://${host}/subscribe`, webSocketImpl: WebSocket, retryAttempts: 0, lazy: true});
  const run = (query) => new Promise((done) => client.subscribe({query}, {
    next: (r) => console.log("result", JSON.stringify(r)),
    complete: () => done(),
    error: (e) => { console.log("ended", e.code, e.reason ?? e.message); done(); },
  }));
  await run("{ viewer }");
  await run("mutation { viewer: deleteRepository }");
  await client.dispose();
}

await {graphql, mcp, websocket, operations}[what]();
