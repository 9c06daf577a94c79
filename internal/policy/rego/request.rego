# Whether a request may pass on a connection that egress.rego admits.
#
# Patterns are matched before this module runs, like there: the engine hands over which patterns of the policy
# match the request. Whether that adds up to a permission is decided here and nowhere else.
#
# The first question, taking, has the input of egress.rego and
#
# input.paths     the path patterns of endpoints that match the path of the request, from the most specific on,
#                 those that are equally specific together
# input.index     has, beside the rest of an entry,
#                   paths  path pattern -> the callers and endpoints, as in the entry, that are inspected
#
# The second, permitted (or audited, refusing and unmatched, if it is not), has
#
# input.taking    the endpoints that take the path in: their deny rules hold
# input.selected  of these, those with the most specific path: their rules allow
# input.audit     the endpoints whose rules are reported and not enforced
# input.parts     what the request asks for, each with
#                   allow  the endpoints of which a rule that allows matches it
#                   deny   the endpoints of which a rule that denies matches it
package sallyport.request

# [place in input.paths, endpoint]
taking contains [tier, endpoint] if {
	some host in input.hosts
	entry := input.index[host][input.port]
	some tier, patterns in input.paths
	some pattern in patterns
	place := entry.paths[pattern]
	some caller in (place.callers & input.callers)
	some endpoint in place.endpoints[caller]
}

# A request passes as a whole or not at all, and one that asks for nothing that could be named does not.
permitted if {
	input.parts != []
	refusing == set()
	unmatched == set()
}

# The endpoints that forbid some part.
refusing contains endpoint if {
	some part in input.parts
	some endpoint in (part.deny & input.taking)
}

# The parts that no selected endpoint allows.
unmatched contains i if {
	some i, part in input.parts
	part.allow & input.selected == set()
}

# A denial passes, and is reported, if all who deny are in audit.
audited if {
	input.parts != []
	input.selected != set()
	every endpoint in refusing {
		input.audit[endpoint]
	}
	silent
}

silent if unmatched == set()

silent if {
	every endpoint in input.selected {
		input.audit[endpoint]
	}
}
