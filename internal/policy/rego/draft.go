package rego

import "github.com/open-policy-agent/opa/v1/ast"

// draft is input.index of the modules while it grows: host pattern → port → entry.
type draft map[*hostPattern]map[uint16]*draftEntry

// draftEntry is what the policy says about a host pattern and a port.
type draftEntry struct {
	draftPlace
	paths map[string]*draftPlace // by the path of inspected endpoints
}

// draftPlace is binary list → endpoint ids.
type draftPlace struct {
	callers ast.Set
	ids     map[*ast.Term][]*ast.Term
}

func newDraftPlace() draftPlace {
	return draftPlace{ast.NewSet(), map[*ast.Term][]*ast.Term{}}
}

// put files an endpoint; read is nil for one that is not inspected. Without callers its host and port are known,
// so that a denial can say what is missing.
func (d draft) put(pattern *hostPattern, port uint16, read *inspected, callers, id *ast.Term) {
	ports := d[pattern]
	if ports == nil {
		ports = map[uint16]*draftEntry{}
		d[pattern] = ports
	}
	entry := ports[port]
	if entry == nil {
		entry = &draftEntry{newDraftPlace(), map[string]*draftPlace{}}
		ports[port] = entry
	}
	if callers == nil {
		return
	}
	entry.put(callers, id)
	if read == nil {
		return
	}
	place := entry.paths[read.selector]
	if place == nil {
		fresh := newDraftPlace()
		place = &fresh
		entry.paths[read.selector] = place
	}
	place.put(callers, id)
}

func (p *draftPlace) put(callers, id *ast.Term) {
	p.callers.Add(callers)
	p.ids[callers] = append(p.ids[callers], id)
}

// term makes the modules' index, and collects in terms the port numbers that occur.
func (d draft) term(terms map[uint16]*ast.Term) *ast.Term {
	hosts := ast.NewObjectWithCapacity(len(d))
	for pattern, ports := range d {
		byPort := ast.NewObjectWithCapacity(len(ports))
		for port, entry := range ports {
			if terms[port] == nil {
				terms[port] = ast.InternedTerm(int(port))
			}
			byPort.Insert(terms[port], entry.term())
		}
		hosts.Insert(pattern.term, ast.NewTerm(byPort))
	}
	return ast.NewTerm(hosts)
}

func (e *draftEntry) term() *ast.Term {
	paths := ast.NewObjectWithCapacity(len(e.paths))
	for path, place := range e.paths {
		paths.Insert(ast.StringTerm(path), ast.ObjectTerm(place.items()...))
	}
	return ast.ObjectTerm(append(e.items(), ast.Item(keyPaths, ast.NewTerm(paths)))...)
}

func (p *draftPlace) items() [][2]*ast.Term {
	ids := ast.NewObjectWithCapacity(len(p.ids))
	for list, of := range p.ids {
		ids.Insert(list, ast.ArrayTerm(of...))
	}
	return [][2]*ast.Term{
		ast.Item(keyCallers, settled(p.callers)),
		ast.Item(keyEndpoints, ast.NewTerm(ids)),
	}
}
