package workload

// Container is a program of an image.
type Container struct {
	Flist      string            `json:"flist" rule:"is=flist" update:"replace" doc:"image, HUB/OWNER/NAME:TAG"`
	FlistRoot  string            `json:"flist_root" rule:"draft? is=hash" update:"replace" doc:"root of the image: exactly this tree runs"`
	Isolation  string            `json:"isolation" rule:"default=process enum=process,vm" update:"replace" doc:"process, or vm for a small machine of its own"`
	Entrypoint []string          `json:"entrypoint" rule:"? 1..64 each:0..4096 each:is=nonul" update:"replace" doc:"program and arguments; absent: those of the image"`
	Env        map[string]string `json:"env" rule:"? 0..128 key:is=variable each:0..32768 each:is=nonul" update:"replace" doc:"variables; with secrets at most 128 and 32 KiB"`
	Secrets    map[string]Secret `json:"secrets" rule:"? 0..128 key:is=variable" update:"replace" doc:"variables that only the node can read"`
	Cwd        string            `json:"cwd" rule:"? 1..4096 is=path" update:"replace" doc:"working directory; absent: that of the image"`
	User       string            `json:"user" rule:"? is=user" update:"replace" doc:"user or user:group; absent: that of the image"`
	Capacity   Compute           `json:"compute_capacity" update:"place" doc:"processor and memory"`
	Size       uint64            `json:"size" rule:"default=0 0|64MiB..1TiB unit=bytes" update:"replace" doc:"writable root; 0 is read-only. More than 0 needs sealed: off"`
	Mounts     []Mount           `json:"mounts" rule:"? 0..32" update:"replace" doc:"volumes, qsfs and scratch directories"`
	Network    *Attachment       `json:"network" rule:"default={}" update:"replace" doc:"absent: no network"`
	Sealed     string            `json:"sealed" rule:"default=files enum=off,files,strict" update:"replace" doc:"files: nothing starts that the image doesn't describe. strict: no code made at run time either"`
	Restart    *Restart          `json:"restart" rule:"default={}" update:"replace" doc:"absent: always"`
	Pids       uint32            `json:"pids" rule:"default=1024 1..32768" update:"place" doc:"processes and threads at a time"`
	Log        *Log              `json:"log" rule:"default={}" update:"place" doc:"how much output is kept on the node"`
	Exec       bool              `json:"exec" rule:"default=false" update:"replace" doc:"the owner may run programs inside; always recorded"`
	GPU        []string          `json:"gpu" rule:"? 1..16 unique each:is=gpu" update:"replace" doc:"graphics cards; needs isolation: vm and a rented node"`
}

// VM is a virtual machine with a kernel of its own.
type VM struct {
	Flist      string            `json:"flist" rule:"is=flist" update:"replace" doc:"image with /boot/vmlinuz or /image.raw"`
	FlistRoot  string            `json:"flist_root" rule:"draft? is=hash" update:"replace" doc:"root of the image: exactly this tree runs"`
	Entrypoint []string          `json:"entrypoint" rule:"? 1..64 each:0..4096 each:is=nonul" update:"replace" doc:"program and arguments; absent: those of the image"`
	Env        map[string]string `json:"env" rule:"? 0..128 key:is=variable each:0..32768 each:is=nonul" update:"replace" doc:"variables; with secrets at most 128 and 32 KiB"`
	Secrets    map[string]Secret `json:"secrets" rule:"? 0..128 key:is=variable" update:"replace" doc:"variables that only the node can read"`
	Cwd        string            `json:"cwd" rule:"? 1..4096 is=path" update:"replace" doc:"working directory; absent: that of the image"`
	User       string            `json:"user" rule:"? is=user" update:"replace" doc:"user or user:group; absent: that of the image"`
	Capacity   ComputeVM         `json:"compute_capacity" update:"place" doc:"processors and memory"`
	Size       uint64            `json:"size" rule:"500MiB..1TiB unit=bytes" update:"replace" doc:"writable root"`
	Mounts     []Mount           `json:"mounts" rule:"? 0..32" update:"replace" doc:"volumes, qsfs and scratch directories"`
	Disks      []string          `json:"disks" rule:"? 1..16 unique each:is=name" update:"replace" doc:"zmounts, in the order of the devices"`
	Network    *Attachment       `json:"network" rule:"default={}" update:"replace" doc:"absent: no network"`
	Machine    string            `json:"machine" rule:"default=q35 enum=q35,microvm" update:"replace" doc:"kind of machine"`
	CloudInit  string            `json:"cloud_init" rule:"? 1..16384 is=nonul" update:"replace" doc:"user data that the machine reads at its first start"`
	Restart    *Restart          `json:"restart" rule:"default={}" update:"replace" doc:"absent: always"`
	Pids       uint32            `json:"pids" rule:"default=1024 1..32768" update:"place" doc:"processes and threads at a time"`
	Log        *Log              `json:"log" rule:"default={}" update:"place" doc:"how much output is kept on the node"`
	Exec       bool              `json:"exec" rule:"default=false" update:"replace" doc:"the owner may run programs inside; always recorded"`
	GPU        []string          `json:"gpu" rule:"? 1..16 unique each:is=gpu" update:"replace" doc:"graphics cards; needs a rented node"`
}

// Compute is processor and memory of a container.
type Compute struct {
	CPU    uint64 `json:"cpu_milli" rule:"50..32000 unit=cpu" doc:"thousandths of a processor"`
	Memory uint64 `json:"memory" rule:"16MiB..256GiB unit=bytes" doc:"bytes"`
}

// ComputeVM is processors and memory of a virtual machine.
type ComputeVM struct {
	CPU    uint64 `json:"cpu_milli" rule:"50..32000 unit=cpu" doc:"thousandths of a processor"`
	Memory uint64 `json:"memory" rule:"250MiB..256GiB unit=bytes" doc:"bytes"`
}

// Mount puts a volume, a qsfs or a scratch directory into a machine.
type Mount struct {
	Name       string `json:"name" rule:"? is=name" doc:"volume or qsfs of this document; this or scratch"`
	Scratch    uint64 `json:"scratch" rule:"? 1MiB..256GiB unit=bytes" doc:"size of an empty directory that is gone with the machine"`
	Mountpoint string `json:"mountpoint" rule:"2..4096 is=path" doc:"absolute and clean; not /, /proc, /sys or /dev"`
	ReadOnly   bool   `json:"ro" rule:"default=false" doc:"read-only"`
}

// Attachment connects a machine to networks.
type Attachment struct {
	Interfaces []Interface `json:"interfaces" rule:"? 0..4" doc:"private networks"`
	Planetary  bool        `json:"planetary" rule:"default=false" doc:"an address in the overlay that reaches every node"`
}

// Interface is one private network of a machine.
type Interface struct {
	Network string `json:"network" rule:"is=name" doc:"one of the networks of the document"`
	IP      string `json:"ip" rule:"? is=address" doc:"IPv4 address in the node's /24, .2 to .250; absent: the node chooses"`
}

// Restart says what happens when a program ends.
type Restart struct {
	Policy string `json:"policy" rule:"default=always enum=never,on-failure,always" doc:"when it starts again"`
	Max    uint32 `json:"max" rule:"? 1..1000" doc:"failures in a row after which it stays down; absent: never gives up"`
}

// Log bounds what the node keeps of the output.
type Log struct {
	Size uint64 `json:"size" rule:"default=33554432 1MiB..1GiB unit=bytes" doc:"the oldest output is removed beyond it"`
}

func (*Container) kind() Type { return TypeContainer }
func (*VM) kind() Type        { return TypeVM }

// machine is what container and vm have in common.
type machine struct {
	flist, flistRoot string
	env              map[string]string
	secrets          map[string]Secret
	cwd              string
	cpu, memory      uint64
	size             uint64
	mounts           []Mount
	disks            []string
	network          *Attachment
	gpu              []string
}

func machineOf(d Data) (machine, bool) {
	switch c := d.(type) {
	case *Container:
		return machine{c.Flist, c.FlistRoot, c.Env, c.Secrets, c.Cwd, c.Capacity.CPU, c.Capacity.Memory, c.Size, c.Mounts, nil, c.Network, c.GPU}, true
	case *VM:
		return machine{c.Flist, c.FlistRoot, c.Env, c.Secrets, c.Cwd, c.Capacity.CPU, c.Capacity.Memory, c.Size, c.Mounts, c.Disks, c.Network, c.GPU}, true
	}
	return machine{}, false
}
