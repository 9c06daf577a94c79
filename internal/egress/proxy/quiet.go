package proxy

import (
	"io"
	"log"
)

// quiet is the log of net/http: what clients and servers do wrong is an event or
// nothing, and must not reach a person's terminal.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
