package workload

import (
	"fmt"
	"strings"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Met is nil when the signers satisfy the requirement: their weights reach
// weight_required and everyone who is required has signed. Signers that are not
// in requests weigh nothing. Else the error is Denied and says what is missing.
func (q *Requirement) Met(signers map[identity.Party]bool) error {
	weight := uint32(0)
	var missing []string
	for _, r := range q.Requests {
		switch {
		case signers[r.TwinID]:
			weight += r.Weight
		case r.Required:
			missing = append(missing, fmt.Sprint(uint32(r.TwinID)))
		}
	}
	who := ""
	if len(missing) > 0 {
		who = "required twin " + strings.Join(missing, ", ") + " has not signed"
	}
	switch {
	case weight < q.WeightRequired && who != "":
		return fault.Errorf(fault.Denied, "signatures weigh %d of %d; %s", weight, q.WeightRequired, who)
	case weight < q.WeightRequired:
		return fault.Errorf(fault.Denied, "signatures weigh %d of %d; ask more signers", weight, q.WeightRequired)
	case who != "":
		return fault.Errorf(fault.Denied, "%s", who)
	}
	return nil
}

// Consent is nil when the signers agreed to doc. running is the version that
// runs now, nil for a first deployment: an update must satisfy the requirement
// of the running version and its own, so nobody weakens it alone. A version
// without a requirement wants the signature of its owner, twin_id. A group has
// no key: with group set, the owner's consent is the chain's proof that it
// created the contract with this hash, which the caller has checked.
func Consent(doc, running *Document, signers map[identity.Party]bool, group bool) error {
	if err := consent(doc, signers, group); err != nil {
		return fmt.Errorf("version %d: %w", doc.Version, err)
	}
	if running != nil {
		if err := consent(running, signers, group); err != nil {
			return fmt.Errorf("running version %d: %w", running.Version, err)
		}
	}
	return nil
}

func consent(d *Document, signers map[identity.Party]bool, group bool) error {
	switch {
	case d.Requirement != nil:
		return d.Requirement.Met(signers)
	case group || signers[d.TwinID]:
		return nil
	}
	return fault.Errorf(fault.Denied, "the owner, twin %d, has not signed", d.TwinID)
}
