// Clients that stay: each says how it was ended. And a gRPC server, with the library that people use.
//
//   node live.mjs h2|ws|watch|wait HOST
//   node live.mjs serve ADDRESS CERTIFICATE KEY
import {readFileSync} from "node:fs";
import {connect} from "node:http2";
import grpc from "@grpc/grpc-js";
import WebSocket from "ws";

const [what, host, cert, key] = process.argv.slice(2);
const text = {
  requestSerialize: (s) => Buffer.from(s), requestDeserialize: (b) => b.toString(),
  responseSerialize: (s) => Buffer.from(s), responseDeserialize: (b) => b.toString(),
};
const service = {
  watch: {path: "/live.Live/Watch", requestStream: false, responseStream: true, ...text},
  wait: {path: "/live.Live/Wait", requestStream: false, responseStream: false, ...text},
};

function serve() {
  const server = new grpc.Server();
  server.addService(service, {
    watch: (call) => { console.log("watch"); const t = setInterval(() => call.write("beat"), 50); call.on("cancelled", () => clearInterval(t)); },
    wait: () => { console.log("wait"); },
  });
  server.bindAsync(host + ":443", grpc.ServerCredentials.createSsl(null, [{cert_chain: readFileSync(cert), private_key: readFileSync(key)}]), (e) => { if (e) throw e; });
}

function client() {
  const Live = grpc.makeGenericClientConstructor(service, "Live");
  return new Live(host + ":443", grpc.credentials.createSsl(readFileSync(process.env.SSL_CERT_FILE)), {"grpc.enable_retries": 0, "grpc.enable_http_proxy": 0});
}

function watch() {
  const c = client(), call = c.watch("go");
  call.once("data", (d) => console.log("message", d));
  call.on("data", () => {});
  call.on("error", (e) => { console.log("grpc", e.code, e.details); c.close(); });
  call.on("end", () => console.log("ended"));
}

function wait() {
  const c = client();
  c.wait("go", (e, d) => { console.log("grpc", e?.code, e?.details ?? d); c.close(); });
}

function h2() {
  const session = connect("https://" + host);
  session.on("goaway", (code) => console.log("goaway", code));
  session.on("error", (e) => console.log("session", e.message));
  session.on("close", () => console.log("closed"));
  const stream = session.request({":path": "/events"});
  stream.on("error", () => {});
  stream.once("data", () => console.log("data"));
  stream.resume();
  stream.on("close", () => console.log("stream", stream.rstCode));
}

function ws() {
  const socket = new WebSocket(`wss://${host}/ws`);
  socket.on("message", (m) => console.log("message", m.toString()));
  socket.on("error", (e) => console.log("error", e.message));
  socket.on("close", (code, reason) => console.log("closed", code, reason.toString()));
}

({serve, watch, wait, h2, ws})[what]();
