package workload

import (
	"slices"

	"zos.internal/internal/fault"
)

// Order is the order of work: the names of each step can be worked on at the
// same time, when all of the step before are done. It goes network; zmount,
// volume, zdb; qsfs; ip; container, vm; gateways; zlogs. Removal goes backwards.
func (d *Document) Order() [][]string {
	var steps [][]string
	rank := ranks()
	for r := range 7 {
		var names []string
		for i := range d.Workloads {
			if rank[d.Workloads[i].Type] == r {
				names = append(names, d.Workloads[i].Name)
			}
		}
		if names != nil {
			steps = append(steps, names)
		}
	}
	return steps
}

func ranks() map[Type]int {
	m := make(map[Type]int)
	for _, k := range kinds() {
		m[k.Type] = k.rank
	}
	return m
}

// Capacity is what the contract of a document must reserve.
type Capacity struct {
	CRU  uint64   `json:"cru"`  // thousandths of a vCPU
	MRU  uint64   `json:"mru"`  // bytes of memory
	SRU  uint64   `json:"sru"`  // bytes of solid-state disk
	HRU  uint64   `json:"hru"`  // bytes of hard disk
	IPv4 uint64   `json:"ipv4"` // public addresses
	IPv6 uint64   `json:"ipv6"`
	GPU  []string `json:"gpu,omitempty"` // slot/vendor/device, sorted
}

// Capacity adds up what the workloads ask for. Machines count processor,
// memory, the writable root and scratch directories; zmounts, volumes and the
// cache of a qsfs count as SRU, zdb namespaces as HRU. Every number is below
// 2^53 and there are at most 64 workloads, so no sum overflows.
func (d *Document) Capacity() Capacity {
	var c Capacity
	for i := range d.Workloads {
		switch w := d.Workloads[i].Data.(type) {
		case *Disk:
			c.SRU += w.Size
		case *Volume:
			c.SRU += w.Size
		case *ZDB:
			c.HRU += w.Size
		case *QSFS:
			c.SRU += w.Cache
		case *IP:
			if w.Family == "v4" {
				c.IPv4++
			} else {
				c.IPv6++
			}
		}
		if m, ok := machineOf(d.Workloads[i].Data); ok {
			c.CRU += m.cpu
			c.MRU += m.memory
			c.SRU += m.size
			for _, x := range m.mounts {
				c.SRU += x.Scratch
			}
			c.GPU = append(c.GPU, m.gpu...)
		}
	}
	slices.Sort(c.GPU)
	return c
}

// Fits says what is missing when free is all there is. Each word of the error
// is a resource with what is asked and what is free; its kind is Exhausted.
func (c Capacity) Fits(free Capacity) error {
	for _, x := range []struct {
		what        string
		asked, free uint64
		bytes       bool
	}{
		{"thousandths of a vCPU (cru)", c.CRU, free.CRU, false},
		{"memory (mru)", c.MRU, free.MRU, true},
		{"solid-state disk (sru)", c.SRU, free.SRU, true},
		{"hard disk (hru)", c.HRU, free.HRU, true},
		{"IPv4 addresses", c.IPv4, free.IPv4, false},
		{"IPv6 addresses", c.IPv6, free.IPv6, false},
	} {
		switch {
		case x.asked <= x.free:
		case x.bytes:
			return fault.Errorf(fault.Exhausted, "%s of %s asked, %s free", Size(x.asked), x.what, Size(x.free))
		default:
			return fault.Errorf(fault.Exhausted, "%d %s asked, %d free", x.asked, x.what, x.free)
		}
	}
	have := make(map[string]bool)
	for _, g := range free.GPU {
		have[g] = true
	}
	for _, g := range c.GPU {
		if !have[g] {
			return fault.Errorf(fault.Exhausted, "graphics card %s is not free", g)
		}
		have[g] = false
	}
	return nil
}
