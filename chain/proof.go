package chain

// Proof carries records of the state and what proves them: for each key a path
// to the root, and the block whose header contains that root, signed by the
// validators. The root of the state after block N stands in the header of block
// N+1, which is Block.
type Proof struct {
	Height  uint64         `json:"height"`  // of the last block in the state: N
	Records []ProvenRecord `json:"records"` // in the order of the keys that were asked for
	Block   []byte         `json:"block"`   // of height N+1, a LightBlock
}

// ProvenRecord is one record, or the proof that there is none.
type ProvenRecord struct {
	Key   Bytes  `json:"key"`
	Value []byte `json:"value"` // canonical CBOR of the record; null when there is none
	Path  []byte `json:"path"`  // ics23.CommitmentProof in protobuf, of the IAVL spec: existence, or non-existence
}

// LightBlock is a header with the commit of its validators and their set, in
// protobuf (tendermint.types.LightBlock).
type LightBlock struct {
	Height uint64 `json:"height"`
	Block  []byte `json:"block"`
}

// TxAnswer is what a server says about a transaction in a block.
type TxAnswer struct {
	ID     Hash    `json:"id"`
	Height uint64  `json:"height"` // of the block; 0: in none yet
	Index  int     `json:"index"`  // in the block
	Kind   string  `json:"kind"`   // "": it took effect; else the kind of the error
	Error  string  `json:"error,omitempty"`
	Fee    uint64  `json:"fee"` // nano-credits
	Events []Event `json:"events,omitempty"`
}

// BlockEvents is what happened in a block: one item of the stream of events.
type BlockEvents struct {
	Height uint64       `json:"height"`
	Time   int64        `json:"time"` // unix seconds
	Events []BlockEvent `json:"events"`
}

// BlockEvent is one event and the transaction that it is from.
type BlockEvent struct {
	Tx *Hash `json:"tx,omitempty"` // none: it was due
	Event
}

// Paths of a chain server that clients and servers agree on. All are below /v1.
const (
	PathProof  = "/v1/proof"  // GET ?key=HEX&key=HEX…&height=N: Proof; height is the least one, 0 the newest
	PathLight  = "/v1/light/" // GET HEIGHT: LightBlock; 0 the newest
	PathTx     = "/v1/tx"     // POST CBOR of a signed transaction: TxAnswer; GET /ID
	PathEvents = "/v1/events" // GET ?from=HEIGHT&topic=PREFIX: server-sent events, each a BlockEvents
	PathStatus = "/v1/status" // GET: Status
)

// MaxProofKeys is the most keys in one request for proofs.
const MaxProofKeys = 64

// Status is what a server says about itself and its chain.
type Status struct {
	Chain      string `json:"chain"`
	Height     uint64 `json:"height"`
	Time       int64  `json:"time"` // of the last block, unix seconds
	Root       Hash   `json:"root"` // of the state after the last block
	Earliest   uint64 `json:"earliest"`
	Validators int    `json:"validators"`
	Validator  Bytes  `json:"validator,omitempty"` // this server's key, when it makes blocks
	Peers      int    `json:"peers"`
	Waiting    int    `json:"waiting"` // transactions
	Syncing    bool   `json:"syncing"`
	Peer       string `json:"peer,omitempty"` // where other validators reach this one: id@host:port
}
