package state

import "zos.internal/chain"

// Paying is the rate at which a contract pays now, in pico-credits a second, and
// the nano-credits that are left to pay with: the escrow, or, while a contract
// is suspended for want of funds, the grace deposit. A rent's and a node's
// offline time make it last longer.
func Paying(c chain.Contract) (rate, left uint64) {
	rate, purse := paying(&c)
	return rate, *purse
}
