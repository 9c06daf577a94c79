package websocket

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a relay. Zero means the default.
type Options struct {
	Deflate bool // the handshake agreed on it
	Binary  bool // binary messages of the client pass

	// Judge is shown each text message of the client and returns what is sent for it, often the same. An error
	// ends the connection with its words: a *CloseError, or any other one as [Policy]. The bytes are the
	// judge's until it returns, and are not kept. Required.
	Judge func(text []byte) ([]byte, error)
	// Answer is the same for messages of the server, binary ones too. Without it they pass as they come.
	Answer func(text bool, message []byte) ([]byte, error)

	MaxMessage   int64         // bytes of a message that is judged, inflated; more is [TooBig]. Default 4 MiB
	MaxBinary    int64         // bytes of one frame of a client's binary message; more is [TooBig]. Default 16 MiB
	MaxFragments int           // frames of one message that is collected; more is [Policy]. Default 4096
	MessageTime  time.Duration // for all frames of a message that is collected; longer is [Policy]. Default 2 min
	CloseTime    time.Duration // for the answer to a Close, and for getting one sent. Default 5 s
	Budget       *Budget       // for messages that are not complete, shared by relays; more is [TryLater]
}

func (o Options) withDefaults() Options {
	def(&o.MaxMessage, 4<<20)
	def(&o.MaxBinary, 16<<20)
	def(&o.MaxFragments, 4096)
	def(&o.MessageTime, 2*time.Minute)
	def(&o.CloseTime, 5*time.Second)
	return o
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Stats count what was relayed. Bytes are those of payloads as they were received.
type Stats struct{ Client, Server Traffic }

// Traffic is what one side sent.
type Traffic struct {
	Messages int64 // text and binary
	Bytes    int64
}

// Relay carries frames both ways until both have ended, and closes both connections, which it owns. It takes
// over after the handshake, at the first byte of the first frame.
//
// The error is nil if the connection was closed by the two sides; a *CloseError if it was ended here, for a
// violation or because ctx ended (with the *CloseError that is its cause, or [GoingAway]); or what broke.
func Relay(ctx context.Context, client, server io.ReadWriteCloser, o Options) (Stats, error) {
	r := &relay{Options: o.withDefaults(), conns: [2]io.Closer{client, server}}
	defer r.cut()
	if r.Judge == nil {
		return Stats{}, errors.New("bug: websocket: a relay without a judge")
	}
	toClient, toServer := newWriter(client, false), newWriter(server, true)
	r.fromClient = flow{relay: r, r: bufio.NewReader(client), to: toServer, back: toClient, client: true, binary: o.Binary}
	r.fromClient.judge = func(_ bool, text []byte) ([]byte, error) { return r.Judge(text) }
	r.fromServer = flow{relay: r, r: bufio.NewReader(server), to: toClient, back: toServer, judge: r.Answer, binary: true, whole: r.Answer != nil}
	r.fromClient.peer, r.fromServer.peer = &r.fromServer, &r.fromClient
	stop := context.AfterFunc(ctx, func() { r.end(endOf(ctx)) })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.fromServer.run()
	}()
	r.fromClient.run()
	<-done
	r.settle()
	return Stats{r.fromClient.traffic, r.fromServer.traffic}, r.why()
}

func endOf(ctx context.Context) *CloseError {
	if e, ok := errors.AsType[*CloseError](context.Cause(ctx)); ok {
		return e
	}
	return closeErrorf(GoingAway, "the connection is ended by the sandbox")
}

// relay is the state that both ways share.
type relay struct {
	Options
	conns                  [2]io.Closer
	fromClient, fromServer flow

	ended   atomic.Bool    // data frames are dropped from here
	closing sync.Once      // starts the time for the answer to a Close
	closes  sync.WaitGroup // those that are being sent

	mu    sync.Mutex
	over  bool // no Close is sent any more
	cause error
	timer *time.Timer
}

// end ends both ways for a reason: each side is sent a Close, and has a time to answer it.
func (r *relay) end(why *CloseError) {
	if !r.blame(why) {
		return
	}
	other := closeErrorf(GoingAway, "the other side has been disconnected")
	if why.Code == GoingAway {
		other = why
	}
	r.sendClose(r.fromServer.to, why)
	r.sendClose(r.fromClient.to, other)
}

// blame notes the first reason.
func (r *relay) blame(why error) bool {
	if !r.ended.CompareAndSwap(false, true) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cause = why
	return true
}

func (r *relay) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cause
}

// sendClose sends a Close without waiting for a side that does not read: after a time both are cut off.
func (r *relay) sendClose(w *writer, why *CloseError) {
	r.limit()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.closes.Go(func() {
		w.frame(header{fin: true, op: opClose}, why.payload())
	})
}

// settle waits for Closes that are being sent, after which none are.
func (r *relay) settle() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.closes.Wait()
}

// limit starts the time after which the connections are cut. What is blocked on them ends then.
func (r *relay) limit() {
	r.closing.Do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.timer = time.AfterFunc(r.CloseTime, r.cut)
	})
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	for _, c := range r.conns {
		c.Close()
	}
}
