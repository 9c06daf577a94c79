// Package websocket relays the frames of a WebSocket connection and shows the text messages in them to a judge.
//
// What a client sends is taken apart and put together again: a text message is collected, inflated, checked to
// be UTF-8, judged, and sent as one frame with a mask of our own, uncompressed. So the server reads the text that
// was judged, whatever could be said about fragments, compression or masks. Binary messages pass only if the
// options say so, frame by frame. What the server sends passes as it comes, unless somebody wants to see its
// messages, too; then they are collected in the same way.
//
// Compression (RFC 7692) is negotiated by [Offer] without context takeover either way: each message can be
// inflated by itself, and nothing is kept for a connection that is quiet.
//
// A violation ends both ways with the protocol's own words: a Close frame with a code and a sentence to either
// side, a time for its answer, then the end of the connections. Here is nothing of HTTP but the headers of the
// handshake, and nothing of rules: a judge is handed in.
//
// Source: RFC 6455, RFC 7692; close codes 1013 and 1014 of the IANA registry.
package websocket
