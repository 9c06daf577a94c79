package dns

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of messages.
const (
	maxQuery       = 4096 // RFC 6891, section 6.2.5: what senders should assume
	maxAdditionals = 4    // OPT, TSIG, and room
	udpSize        = 1232 // that we would read; answers are far shorter
)

// query is what a message asks.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	asked    bool // question is set
	edns     bool
	dnssec   bool
	version  byte // of EDNS
}

// ServeMessage answers one message, or returns nil where there is nothing to
// answer: no header, or not a query. It never waits and sends nothing. The
// answer is the caller's.
//
// A name that no rule could allow does not exist (NXDOMAIN). Resolvers go on to
// the next entry of their search list at once and programs get EAI_NONAME;
// after REFUSED glibc and Go try again and report a temporary failure, and musl
// waits for its timeout. A type other than A and AAAA exists and is empty. Whoever
// asks for a name that does not exist is told of, of whatever bytes it is and whatever type is asked for; a
// message that asks for no name of class IN is not.
func (s *Server) ServeMessage(_ context.Context, msg []byte) []byte {
	q, code, ok := parse(msg)
	if !ok {
		return nil
	}
	if code != dnsmessage.RCodeSuccess {
		return q.answer(code, 0, nil)
	}
	name, ok := hostName(q.question.Name)
	if !ok {
		if odd := strings.TrimSuffix(q.question.Name.String(), "."); odd != "" {
			s.refusals.add(odd, ReasonNoHost)
		}
		return q.answer(dnsmessage.RCodeNameError, 0, nil)
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return q.answer(dnsmessage.RCodeSuccess, s.ttl, s.body(q.question.Type, [4]byte{127, 0, 0, 1}, [16]byte{15: 1}))
	}
	if target, known := s.reverse(name); known {
		return q.answer(dnsmessage.RCodeSuccess, s.ttl, pointer(q.question.Type, target))
	}
	slot, reason := s.find(name)
	switch reason {
	case "":
		return q.answer(dnsmessage.RCodeSuccess, s.ttl, s.body(q.question.Type, v4Of(slot), v6Of(slot)))
	case ReasonFull:
		return q.answer(dnsmessage.RCodeServerFailure, 0, nil)
	}
	return q.answer(dnsmessage.RCodeNameError, 0, nil)
}

// body is the record of a type, or nil where the name has none.
func (s *Server) body(t dnsmessage.Type, v4 [4]byte, v6 [16]byte) dnsmessage.ResourceBody {
	switch {
	case t == dnsmessage.TypeA:
		return &dnsmessage.AResource{A: v4}
	case t == dnsmessage.TypeAAAA && !s.v4Only:
		return &dnsmessage.AAAAResource{AAAA: v6}
	}
	return nil
}

// parse reads a query strictly: one question, nothing in the sections that only
// answers fill. It is false for what must not be answered at all; otherwise the
// code says what is wrong with the message.
func parse(msg []byte) (q query, code dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(msg); err != nil || q.header.Response {
		return q, 0, false
	}
	if len(msg) > maxQuery {
		return q, dnsmessage.RCodeFormatError, true
	}
	if q.header.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	if q.question, err = p.Question(); err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	if _, err = p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, dnsmessage.RCodeFormatError, true
	}
	if _, err = p.AnswerHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, dnsmessage.RCodeFormatError, true
	}
	if _, err = p.AuthorityHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, dnsmessage.RCodeFormatError, true
	}
	q.asked = true
	if err := q.additionals(&p); err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	switch {
	case q.version > 0:
		return q, badVersion, true
	case q.question.Class != dnsmessage.ClassINET:
		return q, dnsmessage.RCodeRefused, true
	}
	return q, dnsmessage.RCodeSuccess, true
}

// badVersion is BADVERS of RFC 6891; its upper bits travel in the OPT record.
const badVersion dnsmessage.RCode = 16

var errAdditionals = errors.New("dns: additional section")

// additionals looks for the one OPT record and skips the rest.
func (q *query) additionals(p *dnsmessage.Parser) error {
	for range maxAdditionals + 1 {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type == dnsmessage.TypeOPT {
			if q.edns || h.Name.String() != "." {
				return errAdditionals
			}
			q.edns, q.dnssec, q.version = true, h.DNSSECAllowed(), byte(h.TTL>>16)
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
	return errAdditionals
}

// answer builds the response: the question as it was asked, at most one record,
// and OPT if the query had one. Nothing untrusted but the question is in it.
func (q *query) answer(code dnsmessage.RCode, ttl uint32, body dnsmessage.ResourceBody) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Authoritative: q.asked,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
		CheckingDisabled: q.header.CheckingDisabled, RCode: code & 0xf,
	})
	b.EnableCompression()
	var err error
	if q.asked {
		err = errors.Join(b.StartQuestions(), b.Question(q.question))
	}
	h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	switch r := body.(type) {
	case *dnsmessage.AResource:
		err = errors.Join(err, b.StartAnswers(), b.AResource(h, *r))
	case *dnsmessage.AAAAResource:
		err = errors.Join(err, b.StartAnswers(), b.AAAAResource(h, *r))
	case *dnsmessage.PTRResource:
		err = errors.Join(err, b.StartAnswers(), b.PTRResource(h, *r))
	}
	if q.edns {
		var opt dnsmessage.ResourceHeader
		err = errors.Join(err, opt.SetEDNS0(udpSize, code, q.dnssec), b.StartAdditionals(), b.OPTResource(opt, dnsmessage.OPTResource{}))
	}
	msg, finishErr := b.Finish()
	if err != nil || finishErr != nil {
		return nil
	}
	return msg
}

// hostName is a wire name as a canonical host name. It is false for names that
// no host has: other bytes than letters, digits, hyphen and underscore, and
// names that a URL parser would read as an IPv4 address.
func hostName(n dnsmessage.Name) (string, bool) {
	b := make([]byte, n.Length)
	for i, c := range n.Data[:n.Length] {
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", false
		}
		b[i] = c
	}
	s := strings.TrimSuffix(string(b), ".")
	last := s[strings.LastIndexByte(s, '.')+1:]
	if last == "" || '0' <= last[0] && last[0] <= '9' {
		return "", false // no top-level domain starts with a digit
	}
	return s, true
}
