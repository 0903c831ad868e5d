package workload

// Disk is the block disk of one virtual machine (zmount).
type Disk struct {
	Size uint64 `json:"size" rule:"1GiB..10TiB unit=bytes" update:"grow" doc:"it can grow, also while it is used, but not shrink"`
}

// Volume is a directory.
type Volume struct {
	Size uint64 `json:"size" rule:"64MiB..10TiB unit=bytes" update:"place" doc:"it shrinks only if what is used fits"`
}

// ZDB is a key-value namespace.
type ZDB struct {
	Size     uint64 `json:"size" rule:"1MiB..10TiB unit=bytes" update:"place" doc:"bytes of data"`
	Mode     string `json:"mode" rule:"enum=user,seq" update:"never" doc:"user: the client names the keys. seq: the server numbers them"`
	Password Secret `json:"password" update:"place" doc:"password of writers"`
	Public   bool   `json:"public" rule:"default=false" update:"place" doc:"reading needs no password"`
}

// QSFS is a file system over zdb namespaces.
type QSFS struct {
	Cache      uint64     `json:"cache" rule:"256MiB..1TiB unit=bytes" update:"place" doc:"cache on the node; it holds ciphertext only"`
	Config     QSFSConfig `json:"config" update:"place" doc:"where the data lies"`
	RootKey    Secret     `json:"root_key" update:"never" doc:"32 bytes from which every key of the file system comes"`
	Durability string     `json:"durability" rule:"default=mirrored enum=local,mirrored,dispersed" update:"place" doc:"what an fsync waits for"`
	Mirrors    uint32     `json:"mirrors" rule:"default=2 1..16" update:"place" doc:"peers that hold the journal when durability is mirrored"`
	Survive    *Survive   `json:"survive" rule:"default={}" update:"place" doc:"losses that the placement must survive"`
	Retention  *Retention `json:"retention" rule:"?" update:"place" doc:"snapshots to keep; absent: all"`
}

// QSFSConfig places the shards.
type QSFSConfig struct {
	MinimalShards   uint32    `json:"minimal_shards" rule:"1..32" doc:"shards that rebuild the data"`
	ExpectedShards  uint32    `json:"expected_shards" rule:"2..64" doc:"shards that are written; more than minimal_shards"`
	RedundantGroups uint32    `json:"redundant_groups" rule:"default=0 0..63" doc:"groups that may be lost"`
	RedundantNodes  uint32    `json:"redundant_nodes" rule:"default=0 0..63" doc:"nodes of each group that may be lost"`
	Groups          []Backers `json:"groups" rule:"1..64" doc:"backends by farm or place"`
}

// Backers is a group of backends that may fail together.
type Backers struct {
	Backends []Backend `json:"backends" rule:"1..256" doc:"zdb namespaces"`
}

// Backend is a zdb namespace that holds shards.
type Backend struct {
	Address   string `json:"address" rule:"is=endpoint" doc:"address and port"`
	Namespace string `json:"namespace" rule:"1..128 is=namespace" doc:"namespace"`
	Password  Secret `json:"password" doc:"password of writers"`
}

// Survive is the least that may be lost without losing data.
type Survive struct {
	Nodes uint32 `json:"nodes" rule:"default=0 0..63" doc:"nodes"`
	Farms uint32 `json:"farms" rule:"default=0 0..63" doc:"farms"`
}

// Retention says how many snapshots stay.
type Retention struct {
	Hourly  uint32 `json:"hourly" rule:"default=0 0..10000" doc:"hours"`
	Daily   uint32 `json:"daily" rule:"default=0 0..10000" doc:"days"`
	Monthly uint32 `json:"monthly" rule:"default=0 0..10000" doc:"months"`
}

func (*Disk) kind() Type   { return TypeZMount }
func (*Volume) kind() Type { return TypeVolume }
func (*ZDB) kind() Type    { return TypeZDB }
func (*QSFS) kind() Type   { return TypeQSFS }
