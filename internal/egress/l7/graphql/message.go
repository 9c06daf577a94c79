package graphql

import (
	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

// The subprotocols of GraphQL over WebSocket, as Sec-WebSocket-Protocol names them. GraphQLWS is the older one.
const (
	TransportWS = "graphql-transport-ws"
	GraphQLWS   = "graphql-ws"
)

// messages are what a client may send, and whether it runs something.
var messages = map[string]map[string]bool{
	TransportWS: {"connection_init": false, "ping": false, "pong": false, "subscribe": true, "complete": false},
	GraphQLWS:   {"connection_init": false, "connection_terminate": false, "start": true, "stop": false},
}

// Subprotocol tells whether messages of a subprotocol can be read.
func Subprotocol(name string) bool { return messages[name] != nil }

// ReadMessage returns the operation of a client's text message, none for a message that runs nothing. The
// errors are *jsonval.Malformed and *jsonval.TooLarge.
func ReadMessage(subprotocol string, text []byte, o Options) ([]policy.Operation, error) {
	o = o.withDefaults()
	if int64(len(text)) > o.MaxBody {
		return nil, &jsonval.TooLarge{What: "bytes of GraphQL", Limit: o.MaxBody}
	}
	known := messages[subprotocol]
	if known == nil {
		return nil, jsonval.Malformedf("the WebSocket subprotocol %.80q is not one that GraphQL is read in", subprotocol)
	}
	v, err := jsonval.Read(text, jsonval.Limits{})
	if err != nil {
		return nil, err
	}
	if err := v.Only("a GraphQL message", "id", "type", "payload"); err != nil {
		return nil, err
	}
	kind, err := v.String("type")
	if err != nil {
		return nil, err
	}
	runs, ok := known[kind]
	if !ok {
		return nil, jsonval.Malformedf("%s has no message %.80q for a client to send", subprotocol, kind)
	}
	if !runs {
		return nil, nil
	}
	payload := v.Get("payload")
	if id, err := v.String("id"); err != nil || id == "" || payload == nil {
		return nil, jsonval.Malformedf("the message %s has an id and a payload", kind)
	}
	return one(fromObject(payload, o))
}
