package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/chain"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
	"zos.internal/workload"
)

// capacityFlags are resources by flag.
type capacityFlags struct {
	cpu, memory, ssd, hdd string
	ipv4, ipv6            uint32
	gpu                   []string
}

func (c *capacityFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.cpu, "cpu", "", "virtual `CPUs`, such as 1.5")
	f.StringVar(&c.memory, "memory", "", "`size` of memory, such as 512MiB")
	f.StringVar(&c.ssd, "ssd", "", "`size` of SSD")
	f.StringVar(&c.hdd, "hdd", "", "`size` of hard disk")
	f.Uint32Var(&c.ipv4, "ipv4", 0, "`number` of public IPv4 addresses")
	f.Uint32Var(&c.ipv6, "ipv6", 0, "`number` of public IPv6 addresses")
	f.StringSliceVar(&c.gpu, "gpu", nil, "`slot/vendor/device` of a GPU; repeat for several")
}

func (c *capacityFlags) capacity() (out chain.Capacity, err error) {
	for _, f := range []struct {
		name, text string
		to         *uint64
		parse      func(string) (uint64, error)
	}{{"--cpu", c.cpu, &out.CPU, workload.ParseCPU}, {"--memory", c.memory, &out.Memory, workload.ParseSize}, {"--ssd", c.ssd, &out.SSD, workload.ParseSize}, {"--hdd", c.hdd, &out.HDD, workload.ParseSize}} {
		if f.text == "" {
			continue
		}
		if *f.to, err = f.parse(f.text); err != nil {
			return out, fault.Errorf(fault.Of(err), "%s: %w", f.name, err)
		}
	}
	out.IPv4, out.IPv6 = uint64(c.ipv4), uint64(c.ipv6)
	if len(c.gpu) > 0 {
		out = out.Add(chain.Capacity{GPU: c.gpu}) // sorted
	}
	return out, nil
}

// capacityText shows resources.
func capacityText(c chain.Capacity) string {
	var out []string
	add := func(n uint64, text string) {
		if n > 0 {
			out = append(out, text)
		}
	}
	add(c.CPU, cpus(c.CPU)+" CPU")
	for _, s := range []struct {
		n    uint64
		name string
	}{{c.Memory, "memory"}, {c.SSD, "SSD"}, {c.HDD, "HDD"}} {
		add(s.n, progress.Size(int64(s.n))+" "+s.name)
	}
	add(c.IPv4, fmt.Sprintf("%d IPv4", c.IPv4))
	add(c.IPv6, fmt.Sprintf("%d IPv6", c.IPv6))
	add(uint64(len(c.GPU)), fmt.Sprintf("%d GPU", len(c.GPU)))
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

func cpus(milli uint64) string { return trimDecimal(fmt.Sprintf("%d.%03d", milli/1000, milli%1000)) }

// machineFlags are what a node says of itself. What isn't given stays.
type machineFlags struct {
	capacity       capacityFlags
	relays         relayFlags
	location, link string
	virtual        bool
}

func (m *machineFlags) flags(cmd *cobra.Command) {
	m.capacity.flags(cmd)
	f := cmd.Flags()
	f.UintSliceVar(&m.relays.relays, "relay", nil, "`party` of a relay that the node uses; repeat for several")
	f.StringVar(&m.location, "location", "", "`text`: where it stands")
	f.StringVar(&m.link, "link-speed", "", "`size` that its link sends in a second: no more egress is billed")
	f.BoolVar(&m.virtual, "virtual", false, "it is a virtual machine")
}

func (m *machineFlags) apply(cmd *cobra.Command, to *chain.Machine) (err error) {
	changed := cmd.Flags().Changed
	for _, name := range []string{"cpu", "memory", "ssd", "hdd", "ipv4", "ipv6", "gpu"} {
		if changed(name) {
			if to.Capacity, err = m.capacity.capacity(); err != nil {
				return err
			}
		}
	}
	if changed("relay") {
		if to.Relays, err = m.relays.parties(); err != nil {
			return err
		}
	}
	if changed("location") {
		to.Location = m.location
	}
	if changed("link-speed") {
		if to.LinkSpeed, err = workload.ParseSize(m.link); err != nil {
			return fault.Errorf(fault.Of(err), "--link-speed: %w", err)
		}
	}
	if changed("virtual") {
		to.Virtual = m.virtual
	}
	return nil
}
