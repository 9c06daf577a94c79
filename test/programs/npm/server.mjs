// An HTTPS server with a GraphQL API, an MCP server and WebSockets, each made with the library that people use
// for it. It says on stdout what it was asked.
//
//   node server.mjs ADDRESS CERTIFICATE KEY
import {randomUUID} from "node:crypto";
import {readFileSync} from "node:fs";
import {createServer} from "node:https";
import {GraphQLObjectType, GraphQLSchema, GraphQLString} from "graphql";
import {createHandler} from "graphql-http/lib/use/http";
import {useServer} from "graphql-ws/use/ws";
import {McpServer} from "@modelcontextprotocol/sdk/server/mcp.js";
import {StreamableHTTPServerTransport} from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import {WebSocketServer} from "ws";

const [address, cert, key] = process.argv.slice(2);
const field = (name) => ({
  type: GraphQLString,
  args: {text: {type: GraphQLString}},
  resolve: (_, {text}) => { console.log("graphql", name, text ?? ""); return name + " done"; },
});
const schema = new GraphQLSchema({
  query: new GraphQLObjectType({name: "Query", fields: {viewer: field("viewer")}}),
  mutation: new GraphQLObjectType({name: "Mutation", fields: {deleteRepository: field("deleteRepository")}}),
});
const graphql = createHandler({schema});

function tools() {
  const server = new McpServer({name: "tools", version: "1"});
  for (const name of ["search_web", "delete_all"]) {
    server.registerTool(name, {description: name}, async () => {
      console.log("mcp", name);
      return {content: [{type: "text", text: name + " done"}]};
    });
  }
  return server;
}

const sessions = new Map();
async function mcp(req, res) {
  let transport = sessions.get(req.headers["mcp-session-id"]);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({sessionIdGenerator: randomUUID, onsessioninitialized: (id) => sessions.set(id, transport)});
    await tools().connect(transport);
  }
  await transport.handleRequest(req, res);
}

const server = createServer({cert: readFileSync(cert), key: readFileSync(key)}, (req, res) => {
  switch (new URL(req.url, "https://x").pathname) {
    case "/graphql": return graphql(req, res);
    case "/mcp": return mcp(req, res);
  }
  res.writeHead(404).end();
});

const echo = new WebSocketServer({noServer: true, perMessageDeflate: true});
echo.on("connection", (socket) => socket.on("message", (data, binary) => {
  console.log("echo", binary ? "binary" : data.toString());
  socket.send(data, {binary});
}));
const operations = new WebSocketServer({noServer: true});
useServer({schema}, operations);
server.on("upgrade", (req, socket, head) => {
  const to = req.url === "/subscribe" ? operations : echo;
  to.handleUpgrade(req, socket, head, (ws) => to.emit("connection", ws, req));
});
server.listen(443, address);
