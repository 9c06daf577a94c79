# Which endpoints of the policy let a program reach a host and a port.
#
# Patterns are matched before this module runs: the engine hands over which patterns of the policy match the
# wanted host and the calling program. Whether that adds up to a permission is decided here and nowhere else.
# Every step is a lookup in an index made when the policy was loaded, never a walk over the policy, so that a
# decision costs the same with ten endpoints and with a thousand.
#
# input.hosts    the host patterns of the policy that match the wanted host
# input.port     the wanted port
# input.callers  the binary lists of the policy that name the calling executable or one of its ancestors
# input.index    host pattern -> port -> what the policy says about the two; the same object for all decisions:
#                  callers    the binary lists of the policies with such an endpoint
#                  endpoints  binary list -> the ids of the endpoints of the policies with this list
#
# An endpoint's id is its place in the policy, policies ordered by key: the smallest id is the one to report.
package sallyport.egress

# A connection is allowed if, and only if, an endpoint admits it.
#
# What is asked inside of an admitted connection (layer 7) is to be judged by a second set over this one: rules
# keyed by endpoint id, which can leave endpoints out and never add one.
admitted contains endpoint if {
	some host in input.hosts
	entry := input.index[host][input.port]
	some caller in (entry.callers & input.callers)
	some endpoint in entry.endpoints[caller]
}

# What was missing when nothing admits the connection.
reason := "binary_not_allowed" if {
	some host in input.hosts
	input.index[host][input.port]
}

else := "port_not_allowed" if {
	input.hosts != []
}

else := "no_policy_for_host"
