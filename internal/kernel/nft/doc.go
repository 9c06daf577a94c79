// Package nft holds the packet rules of an agent's network namespace as data,
// installs them by netlink in one transaction, and reads what they log.
//
// Deliberately not here: rules of the host. The rules stand in the agent's own
// namespace, which the agent cannot change because no capability over it is left
// anywhere, and which takes them along when it ends.
//
// What must hold: each chain drops by default, for every protocol; a rule set
// that the kernel does not take as a whole, or does not show as it was sent, is
// an error and the namespace is not used.
package nft
